"""One cell: all its servers up, all but one stopped, and a window for each in every rotation.

    rotation 0    A    B    C    D        each letter: continue the server, load it for a
    rotation 1    D    C    B    A        moment, let it close its connections, stop it
    rotation 2    B    C    D    A

What drifts - clock rates, other work on the machine - drifts for all servers of a rotation.
"""

import os
import random
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from harness import machine, probes
from harness.launch import Place, launch
from harness.loads import run_load, start, wait_for
from harness.probes import Failed

# Where a pinned cell has its two programs.
SERVER_CORE, LOAD_CORE = 0, 1
# How long a server may take to say where it listens, in seconds.
START_TIMEOUT = 10
# How long a server may take to close the connections of a window.
QUIET_TIMEOUT = 5
# A number of descriptors that stays the same for so long has settled.
SETTLED = 0.03


class Running:
    """A server that runs, or is stopped."""

    def __init__(self, server, path, cell, cores, origin=None):
        """`origin` is the program of an echo, for one that forwards."""
        self.server = server
        scratch = Path(tempfile.mkdtemp(prefix="netpoll-bench-"))
        scratch.chmod(0o755)  # servers may give up root
        self.place = Place(scratch)
        # Commands per second, by cell, of load generators that count commands.
        self.rate = {}
        threads = 1 if cell.pinned or server.single else cores
        self.process, self.origin = None, None
        try:
            if server.speaks == "proxy":
                self.start_origin(origin, cell, cores)
            started = launch(server, path, threads, cell, self.place)
            self.command = started.command
            core = SERVER_CORE if cell.pinned else None
            # Into a file: a pipe that is not read in windows stops a server once it is full.
            said = self.place.scratch / "said"
            with said.open("wb") as file:
                self.process = start(self.command, core, subprocess.DEVNULL, file)
            self.address = started.address or listening_by(said, self.process)
            if server.speaks != "datagrams":  # there is nothing to connect to
                wait_for(self.address, self.process, START_TIMEOUT)
            # What a server makes for its first connection is there before any is measured.
            probes.probe(server.speaks, self.address, cell)
            self.descriptors = self.settle()
        except (Failed, OSError):
            self.kill()
            raise

    @property
    def pid(self):
        return self.process.pid

    def start_origin(self, path, cell, cores):
        """It is awake in all windows, where the load is. Each proxy has one of its own: ports of
        closed connections rest, and there are not enough for all of them to one address."""
        command = [str(path), "0", "1" if cell.pinned else str(cores)]
        self.origin = start(command, load_core(cell), subprocess.DEVNULL)
        self.place = Place(self.place.scratch, "{}:{}".format(*listening(self.origin)))

    def go(self):
        self.need_life()
        os.kill(self.pid, signal.SIGCONT)

    def halt(self):
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGSTOP)

    def quiet(self):
        """Waits until it has closed what a window opened; whether it has."""
        deadline = time.monotonic() + QUIET_TIMEOUT
        while time.monotonic() < deadline:
            if self.process.poll() is not None or self.count_descriptors() <= self.descriptors:
                return True
            time.sleep(0.002)
        return False

    def settle(self):
        """How many descriptors it has when that has stayed the same for a moment."""
        deadline, count, since = time.monotonic() + QUIET_TIMEOUT, -1, 0
        while time.monotonic() < deadline:
            now = self.count_descriptors()
            if now != count:
                count, since = now, time.monotonic()
            elif time.monotonic() - since > SETTLED:
                break
            time.sleep(0.002)
        return count

    def need_life(self):
        if self.process.poll() is not None:
            raise Failed(f"the server has ended with status {self.process.returncode}")

    def kill(self):
        for process in filter(None, (self.process, self.origin)):
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        shutil.rmtree(self.place.scratch, ignore_errors=True)

    def count_descriptors(self):
        try:
            return len(os.listdir(f"/proc/{self.pid}/fd"))
        except FileNotFoundError:
            return 0


class Arena:
    """The servers of a cell, from start to kill: use it with `with`."""

    def __init__(self, cell, paths, load, origin=None):
        """`paths` has the program of each server that takes part, `origin` is that of an echo."""
        self.cell = cell
        self.paths = paths
        self.load = load
        self.cores = os.cpu_count() or 1
        self.running = {}
        # Of servers that did not start: why.
        self.absent = {}
        self.origin = origin

    def __enter__(self):
        for server in self.paths:
            self.start(server)
        return self

    def __exit__(self, *_):
        for running in self.running.values():
            running.kill()

    def start(self, server):
        """Starts a server, and stops it until its turn comes."""
        try:
            path = self.paths[server]
            running = Running(server, path, self.cell, self.cores, self.origin)
            running.halt()
            self.running[server] = running
        except (Failed, OSError) as error:
            self.absent[server] = str(error)

    def order(self, rotation):
        """The order in which servers are measured: shuffled, the same way in every run."""
        servers = list(self.running)
        random.Random(rotation).shuffle(servers)
        return servers

    def window(self, server, warmup, seconds, rate=None):
        """Loads a server for a moment: a record with a report in it, or with why there is none."""
        running = self.running[server]
        cores, cpu = machine.cpu_times(), machine.own_cpu()
        used = machine.process_cpu(running.pid) if running.process.poll() is None else 0
        record = {"server": server.name}
        try:
            running.go()
            record["report"] = run_load(
                self.load, running, self.cell, load_core(self.cell), warmup, seconds, rate
            )
            running.need_life()
        except Failed as error:
            record["failed"] = str(error)
        if not running.quiet():
            record["note"] = f"it still had connections {QUIET_TIMEOUT} s after the window"
        ours = machine.own_cpu() - cpu
        if running.process.poll() is None:
            ours += machine.process_cpu(running.pid) - used
        running.halt()
        after = machine.cpu_times()
        record["others_cpu"] = round(machine.others(cores, after, ours), 4)
        record["stolen_cpu"] = round(after.stolen - cores.stolen, 3)
        if running.process.poll() is not None:
            self.running.pop(server).kill()
            self.start(server)  # the next rotation finds a new one, and the record says why
        return record

    def idle_window(self, server, seconds):
        """What idle connections cost a server that has had none before."""
        self.running.pop(server).kill()
        self.start(server)
        if server not in self.running:
            return {"server": server.name, "failed": self.absent.pop(server)}
        return self.window(server, None, seconds)


def load_core(cell):
    return LOAD_CORE if cell.pinned else None


def check(server, path, cell, origin=None):
    """Starts a server, and compares what it answers."""
    running = Running(server, path, cell, os.cpu_count() or 1, origin)
    try:
        probes.check(server.speaks, running.address, cell)
    finally:
        running.kill()


def listening(process):
    """Where a server says it listens."""
    deadline, said = time.monotonic() + START_TIMEOUT, b""
    while b"\n" not in said:
        left = deadline - time.monotonic()
        ready, _, _ = select.select([process.stdout], [], [], max(0, left))
        more = os.read(process.stdout.fileno(), 1 << 12) if ready else b""
        if not more:
            status = process.poll()
            ended = f"ended with status {status}" if status is not None else "said nothing"
            raise Failed(f"it {ended} before it listened")
        said += more
    return parse_address(said.decode())


def listening_by(path, process):
    """The same, of a server that says it into a file."""
    deadline = time.monotonic() + START_TIMEOUT
    while b"\n" not in (said := path.read_bytes()):
        status = process.poll()
        if status is not None or time.monotonic() >= deadline:
            ended = f"ended with status {status}" if status is not None else "said nothing"
            raise Failed(f"it {ended} before it listened")
        time.sleep(0.005)
    return parse_address(said.decode())


def parse_address(said):
    """The address in `listening on HOST:PORT`."""
    host, _, port = said.split("\n")[0].removeprefix("listening on ").rpartition(":")
    if not host or not port.isdigit():
        raise Failed(f"it did not say where it listens, but: {said.strip()}")
    return host, int(port)
