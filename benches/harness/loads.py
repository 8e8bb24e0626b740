"""What loads a server for a window: our generator, or one that its protocol is known by.

Each gives a report of the same form, which is that of `benches/load`.
"""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import time

from harness import machine
from harness.cells import EVERY, TEN
from harness.probes import TIMEOUT, Failed, read_exactly

# How much longer than its window a load generator may take.
GRACE = 30
# Of redis-benchmark, which counts commands and not seconds: how many a second are asked for until
# it is known, and of how much time a window is at most.
COMMANDS = 20_000
PR_SET_PDEATHSIG = 1

# Requests per write, and a report that a program can read.
WRK_SCRIPT = """\
local depth = 1
function init(args)
   depth = tonumber(args[1])
   whole = string.rep(wrk.format("GET"), depth)
end
function request() return whole end
function done(summary, latency, requests)
   local failed = summary.errors
   io.write(string.format(
      '\\n{"requests": %d, "us": %d, "bytes": %d, "errors": %d, ' ..
      '"p50": %d, "p99": %d, "p999": %d}\\n',
      summary.requests, summary.duration, summary.bytes,
      failed.connect + failed.read + failed.write + failed.status + failed.timeout,
      latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""


def missing(loader):
    """Why a load generator can't be had, or None."""
    if loader == "load" or shutil.which(loader):
        return None
    package = {"wrk": "wrk", "redis-benchmark": "redis-tools"}[loader]
    return f"there is no `{loader}`; is the package {package} installed?"


def run_load(load, running, cell, core, warmup, seconds, rate=None):
    """Loads a server for a window, and returns the report."""
    if cell.kind.loader == "wrk":
        return run_wrk(running, cell, core, seconds)
    if cell.kind.loader == "redis-benchmark":
        return run_redis(running, cell, core, seconds)
    return run_ours(load, running, cell, core, warmup, seconds, rate)


def run_ours(load, running, cell, core, warmup, seconds, rate):
    options = {
        "--mode": cell.load_mode,
        "--connections": cell.connections,
        "--size": cell.size,
        "--seconds": seconds,
        "--server-pid": running.pid,
    }
    if cell.kind.deep and cell.load_mode in ("echo", "rpc", "websocket", "udp"):
        options["--depth"] = cell.depth
    if cell.mode == "ten":
        options["--per"] = TEN
    if cell.way == "hot":
        options["--every"] = EVERY
    if cell.mode != "idle":
        options["--warmup"] = warmup
    if rate:
        options["--rate"] = rate
    arguments = [str(word) for pair in options.items() for word in pair]
    arguments += ["--gso"] if cell.in_trains else []
    command = [str(load), "{}:{}".format(*running.address), *arguments, "--json"]
    return parse_report(*finish(command, core, (warmup or 0) + seconds))


def run_wrk(running, cell, core, seconds):
    script = running.place.scratch / "wrk.lua"
    script.write_text(WRK_SCRIPT)
    span = round(seconds)
    address = "http://{}:{}/{}".format(*running.address, cell.what)
    command = ["wrk", "-t", "1", "-c", str(cell.connections), "-d", f"{span}s", "-s", str(script)]
    with Meters(running) as meters:
        status, out, errors = finish([*command, address, "--", str(cell.depth)], core, span)
    return meters.add_to(parse_wrk(status, out, errors))


def run_redis(running, cell, core, seconds):
    fill_redis(running.address)
    count = max(1000, int(running.rate.get(cell, COMMANDS) * seconds))
    command = ["redis-benchmark", "-h", running.address[0], "-p", str(running.address[1])]
    command += ["-c", str(cell.connections), "-n", str(count), "-P", str(cell.depth), "--csv"]
    what = ["lrange", "list", "0", "99"] if cell.what == "lrange" else ["-t", cell.what]
    with Meters(running) as meters:
        status, out, errors = finish([*command, *what], core, seconds)
    report = meters.add_to(parse_redis(status, out, errors, count))
    running.rate[cell] = report["requests_per_second"]
    return report


class Meters:
    """Processor time of a server, and of the programs that load it: use it with `with`."""

    def __init__(self, running):
        self.pid = running.pid

    def __enter__(self):
        self.server, self.load = machine.process_cpu(self.pid), machine.children_cpu()
        return self

    def __exit__(self, *_):
        try:
            self.server = machine.process_cpu(self.pid) - self.server
        except OSError:
            self.server = 0.0  # it has ended, and the arena will say so
        self.load = machine.children_cpu() - self.load

    def add_to(self, report):
        used = {"cpu_seconds": self.server}
        if report["requests"]:
            used["cpu_seconds_per_million"] = self.server * 1e6 / report["requests"]
        return report | {"server": used, "load_cpu_seconds": self.load}


def parse_wrk(status, out, errors):
    """A report, from the line that the script writes last."""
    lines = out.decode().strip().split("\n")
    if status != 0 or not lines[-1].startswith("{"):
        raise Failed(f"wrk says: {(errors.decode() or lines[-1]).strip()}")
    said = json.loads(lines[-1])
    if said["errors"]:
        raise Failed(f"wrk counts {said['errors']} errors")
    seconds = said["us"] / 1e6
    keys = {"p50": "p50", "p99": "p99", "p99.9": "p999"}
    # It counts none at some pipelined loads, and then says 0.
    latency = {name: said[key] * 1e3 if said[key] else None for name, key in keys.items()}
    return {
        "requests": said["requests"],
        "requests_per_second": said["requests"] / seconds,
        "megabytes_per_second": said["bytes"] / seconds / 1e6,
        "seconds": seconds,
        "latency_ns": latency,
    }


def parse_redis(status, out, errors, count):
    """A report, from the columns that redis-benchmark names."""
    lines = [line for line in out.decode().split("\n") if line.startswith('"')]
    if status != 0 or len(lines) != 2:
        raise Failed(f"redis-benchmark says: {(errors + out).decode().strip()[:200]}")
    names, values = (line.strip('"').split('","') for line in lines)
    said = dict(zip(names, values))
    rate = float(said["rps"])
    latency = {name: float(said[f"{name}_latency_ms"]) * 1e6 for name in ("p50", "p99")}
    return {
        "requests": count,
        "requests_per_second": rate,
        "seconds": count / rate,
        "latency_ns": latency,
    }


def fill_redis(address):
    """A list of 100 items, whatever the last window left."""
    with socket.create_connection(address, timeout=TIMEOUT) as peer:
        for words in (["DEL", "mylist"], ["DEL", "list"], ["RPUSH", "list", *["x" * 3] * 100]):
            parts = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
            peer.sendall(f"*{len(words)}\r\n{parts}".encode())
            while read_exactly(peer, 1) != b"\n":
                pass


def finish(command, core, seconds):
    """Runs a load generator to its end: status, and both outputs."""
    process = start(command, core, subprocess.PIPE)
    try:
        out, errors = process.communicate(timeout=seconds + GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Failed("the load generator did not end in time") from None
    return process.returncode, out, errors


def parse_report(status, out, errors):
    """A report, without what the harness knows already; a run with errors has failed."""
    if status != 0:
        said = (first_of_errors(out) or errors.decode().strip() or "nothing").split("\n")[0]
        raise Failed(f"the load generator says: {said}")
    report = json.loads(out)
    for key in ("mode", "address", "connections", "size", "depth", "threads", "first_errors"):
        report.pop(key, None)
    return report


def first_of_errors(out):
    try:
        return next(iter(json.loads(out).get("first_errors", [])), None)
    except ValueError:
        return None


def start(command, core, stderr, stdout=subprocess.PIPE):
    """A process of ours: on a core, if it is pinned, and dead when the harness is."""
    prctl = ctypes.CDLL(None).prctl

    def prepare():
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if core is not None:
            os.sched_setaffinity(0, {core})

    return subprocess.Popen(command, stdout=stdout, stderr=stderr, preexec_fn=prepare)


def wait_for(address, process, seconds):
    """Waits until something answers at an address."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(address, timeout=seconds).close()
            return
        except OSError:
            status = process.poll()
            if status is not None:
                raise Failed(f"it ended with status {status} before it listened") from None
            if time.monotonic() >= deadline:
                raise Failed("it did not listen in time") from None
            time.sleep(0.01)
