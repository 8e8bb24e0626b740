"""The machine: what it is, and which processes used its CPUs."""

import os
import platform
import re
import resource
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from harness.builds import ROOT, versions

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CpuTimes:
    """Seconds, over all CPUs, since the machine started."""

    busy: float
    stolen: float
    at: float


def cpu_times():
    """What all processes together, and the hypervisor's other guests, have used until now."""
    line = Path("/proc/stat").read_text().split("\n", 1)[0]
    return parse_cpu_times(line, time.monotonic())


def parse_cpu_times(line, at):
    """The first line of /proc/stat. Guests are in `user` already; waiting is not work.

    Interrupts count, the loopback device's among them: most kernels charge them to whom they
    interrupt as well, so they cancel out. One with CONFIG_IRQ_TIME_ACCOUNTING does not, and there
    the load's own packets seem to be somebody else's work.
    """
    fields = [int(field) / TICK for field in line.split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, stolen = fields[:8]
    return CpuTimes(user + nice + system + irq + softirq, stolen, at)


def process_cpu(pid):
    """Seconds of CPU time that a process and its threads have used; to the nanosecond."""
    # The clock of another process: the kernel's MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED).
    return time.clock_gettime((~pid << 3) | 2)


def own_cpu():
    """Seconds of CPU time of the harness, and of its children that have ended."""
    return time.process_time() + children_cpu()


def children_cpu():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def others(before, after, ours):
    """The share of all CPUs that other processes used between two readings; `ours` is not counted.

    /proc/stat counts in hundredths of a second, so a short window is off by a few percent.
    """
    whole = (after.at - before.at) * (os.cpu_count() or 1)
    return max(0.0, (after.busy - before.busy - ours) / whole) if whole > 0 else 0.0


def descriptors():
    """How many descriptors a process of ours may have: the limit, raised as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def facts():
    """What a reader needs to know to compare, or to repeat."""
    system = Path("/etc/os-release").read_text()
    return {
        "cpu": first_match(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()),
        "cores": os.cpu_count(),
        "virtual": "hypervisor" in Path("/proc/cpuinfo").read_text(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "system": first_match(r'PRETTY_NAME="(.+)"', system),
        "descriptors": descriptors(),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "congestion_control": read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "load_average": os.getloadavg()[0],
        "rustc": output("rustc", "--version"),
        "cc": output("cc", "--version").split("\n")[0],
        "commit": output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "versions": versions(),
    }


def first_match(pattern, text):
    found = re.search(pattern, text)
    return found.group(1) if found else "unknown"


def read(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def output(*command):
    """What a program says, or "unknown"."""
    if not shutil.which(command[0]):
        return "unknown"
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"
