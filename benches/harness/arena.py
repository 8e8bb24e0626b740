"""One cell: all its servers up, all but one stopped, and a window for each in every rotation.

    rotation 0    A    B    C    D        each letter: continue the server, load it for a
    rotation 1    D    C    B    A        moment, let it close its connections, stop it
    rotation 2    B    C    D    A

What drifts - clock rates, other work on the machine - drifts for all servers of a rotation.
"""

import ctypes
import json
import os
import random
import select
import signal
import socket
import subprocess
import threading
import time

from harness import machine

# Where a pinned cell has its two programs.
SERVER_CORE, LOAD_CORE = 0, 1
# How long a server may take to say where it listens, in seconds.
START_TIMEOUT = 10
# How long a server may take to close the connections of a window.
QUIET_TIMEOUT = 5
# A number of descriptors that stays the same for so long has settled.
SETTLED = 0.03
# How much longer than its window the load generator may take.
LOAD_GRACE = 30
# Bytes that the check sends, in pieces of odd sizes.
CHECK_BYTES = 1 << 20

PR_SET_PDEATHSIG = 1


class Failed(Exception):
    """Why a window, or a server, gave no number."""


class Running:
    """A server that runs, or is stopped."""

    def __init__(self, server, path, cell, cores):
        self.server = server
        threads = 1 if cell.pinned or server.single else cores
        self.command = [str(path), "0", str(threads), *server.options, *cell.block_options]
        core = SERVER_CORE if cell.pinned else None
        self.process = start(self.command, core, subprocess.DEVNULL)
        try:
            self.address = listening(self.process)
            # What a server makes for its first connection is there before any is measured.
            exchange(self.address)
            self.descriptors = self.settle()
        except (Failed, OSError):
            self.kill()
            raise

    @property
    def pid(self):
        return self.process.pid

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
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def count_descriptors(self):
        try:
            return len(os.listdir(f"/proc/{self.pid}/fd"))
        except FileNotFoundError:
            return 0


class Arena:
    """The servers of a cell, from start to kill: use it with `with`."""

    def __init__(self, cell, paths, load):
        """`paths` has the program of each server that takes part."""
        self.cell = cell
        self.paths = paths
        self.load = load
        self.cores = os.cpu_count() or 1
        self.running = {}
        # Of servers that did not start: why.
        self.absent = {}

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
            running = Running(server, self.paths[server], self.cell, self.cores)
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
                self.load, running, self.cell, warmup=warmup, seconds=seconds, rate=rate
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


def exchange(address):
    """A few bytes there and back."""
    word = b"hello"
    with socket.create_connection(address, timeout=START_TIMEOUT) as peer:
        peer.sendall(word)
        compare(peer, word)


def check(server, path, cell):
    """Sends random bytes through a server in odd pieces, and compares what comes back."""
    running = Running(server, path, cell, os.cpu_count() or 1)
    try:
        with socket.create_connection(running.address, timeout=START_TIMEOUT) as peer:
            sent = random.Random(CHECK_BYTES).randbytes(CHECK_BYTES)
            writer = threading.Thread(target=send_in_pieces, args=(peer, sent), daemon=True)
            writer.start()
            compare(peer, sent)
            writer.join()
    except OSError as error:
        raise Failed(f"the check of its echo ended: {error}") from None
    finally:
        running.kill()


def send_in_pieces(peer, data):
    sizes, at = random.Random(7), 0
    while at < len(data):
        size = sizes.choice((1, 63, 1000, 16_385, 70_001))
        try:
            peer.sendall(data[at : at + size])
        except OSError:
            return  # the reader says what is wrong
        at += size


def compare(peer, sent):
    received = 0
    while received < len(sent):
        data = peer.recv(1 << 16)
        if not data:
            raise Failed(f"it closed after {received} of {len(sent)} bytes")
        if data != sent[received : received + len(data)]:
            raise Failed(f"it changed bytes after {received}")
        received += len(data)


def run_load(load, running, cell, warmup, seconds, rate=None):
    """Runs the load generator and returns its report."""
    mode = "echo" if cell.mode == "open" else cell.mode
    options = {
        "--mode": mode,
        "--connections": cell.connections,
        "--size": cell.size,
        "--seconds": seconds,
        "--server-pid": running.pid,
    }
    if cell.mode == "echo":
        options["--depth"] = cell.depth
    if cell.mode != "idle":
        options["--warmup"] = warmup
    if rate:
        options["--rate"] = rate
    arguments = [str(word) for pair in options.items() for word in pair]
    command = [str(load), "{}:{}".format(*running.address), *arguments, "--json"]
    process = start(command, LOAD_CORE if cell.pinned else None, subprocess.PIPE)
    try:
        out, errors = process.communicate(timeout=(warmup or 0) + seconds + LOAD_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Failed("the load generator did not end in time") from None
    return parse_report(process.returncode, out, errors)


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


def start(command, core, stderr):
    """A process of ours: on a core, if it is pinned, and dead when the harness is."""
    prctl = ctypes.CDLL(None).prctl

    def prepare():
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if core is not None:
            os.sched_setaffinity(0, {core})

    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, preexec_fn=prepare)


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


def parse_address(said):
    """The address in `listening on HOST:PORT`."""
    host, _, port = said.split("\n")[0].removeprefix("listening on ").rpartition(":")
    if not host or not port.isdigit():
        raise Failed(f"it did not say where it listens, but: {said.strip()}")
    return host, int(port)
