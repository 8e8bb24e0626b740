"""Counts the instructions of an echo under valgrind, and compares with the stored numbers.

The server runs under callgrind twice, once for N requests and once for 2 N; the difference over N
is one request, without the start and the end. System calls count as one instruction each, so this
is what the process itself does, and it does not depend on what else the machine does.

`alone` is one connection, whose every message is a turn of the loop by itself: one wait, one read,
one callback, one send. `batch` is 64 connections that are ready together, so what a turn costs once
is shared: the server is stopped while they send.

    benches/instructions            compare with benches/instructions.json
    benches/instructions --store    and store the new numbers there
    benches/instructions --where    and show in which functions and lines they are

Exit status: 0 the same, within the tolerance; 1 worse; 3 better, so store it; 2 it can't be
measured here.
"""

import argparse
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from harness.arena import listening
from harness.builds import BENCHES, Skipped, build
from harness.loads import start
from harness.machine import output
from harness.probes import Failed, expect

STORED = BENCHES / "instructions.json"
# Of netpoll's modes only the one that does not depend on the clock: under valgrind, where
# everything is some fifty times slower, callbacks seem to block to a hand-off's monitor, and its
# looks are counted, as are those of a loop that spins.
SLEEPING = ("--dispatch", "inline", "--spin", "never")
# What is measured: a name, the program and its options, connections.
TURNS = {
    "netpoll inline, alone": ("netpoll_echo", SLEEPING, 1),
    "netpoll inline, batch": ("netpoll_echo", SLEEPING, 64),
    "raw epoll, alone": ("raw_epoll", (), 1),
    "raw epoll, batch": ("raw_epoll", (), 64),
}
REQUESTS = 3200
SIZE = 64
# Other choices of a new compiler stay within this; a change of the code should not hide in it.
TOLERANCE = 0.01
# How long a run under valgrind may take, in seconds.
TIMEOUT = 120
# Functions, and lines, that are shown.
SHOWN = 40

SAME, WORSE, IMPOSSIBLE, BETTER = 0, 1, 2, 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--store", action="store_true", help="store the new numbers")
    parser.add_argument("--where", action="store_true", help="show functions and lines")
    options = parser.parse_args()
    if not shutil.which("valgrind"):
        print("instructions: there is no valgrind (apt-get install valgrind)", file=sys.stderr)
        return IMPOSSIBLE
    try:
        counted = {name: turn(*what) for name, what in TURNS.items()}
    except (Skipped, Failed, OSError, subprocess.TimeoutExpired) as reason:
        print(f"instructions: {reason}", file=sys.stderr)
        return IMPOSSIBLE
    totals = {name: sum(places.values()) for name, places in counted.items()}
    if options.where:
        for name, places in counted.items():
            print(where(places, name))
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    compiler = output("rustc", "--version")
    status, lines = judge(totals, stored.get("per_request", {}))
    print("\n".join(lines))
    if stored.get("rustc", compiler) != compiler:
        print(f"stored with {stored['rustc']}, measured with {compiler}")
    if options.store:
        numbers = {name: round(total, 1) for name, total in totals.items()}
        text = json.dumps({"rustc": compiler, "per_request": numbers}, indent=2)
        STORED.write_text(text + "\n")
        return SAME
    return status


def judge(totals, stored):
    """The exit status, and a line for each number. Only ours can be better or worse."""
    status, lines = SAME, []
    for name, total in totals.items():
        before = stored.get(name)
        if before is None:
            lines.append(f"{name}: {total:.1f} instructions per request; none stored")
            continue
        change = total / before - 1
        line = f"{name}: {total:.1f} instructions per request, {before:.1f} stored"
        if not name.startswith("netpoll"):
            lines.append(line)
            continue
        word = "worse" if change > TOLERANCE else "better" if change < -TOLERANCE else "the same"
        lines.append(f"{line}: {100 * change:+.1f} %, {word}")
        if word != "the same":
            status = WORSE if word == "worse" else BETTER if status == SAME else status
    return status, lines


def turn(program, options, connections):
    """Instructions per request, by function, file and line."""
    path = build(program)
    counts = (REQUESTS, 2 * REQUESTS)
    once, twice = (run(path, options, connections, count) for count in counts)
    places = set(once) | set(twice)
    each = {place: (twice.get(place, 0) - once.get(place, 0)) / REQUESTS for place in places}
    return {place: count for place, count in each.items() if abs(count) >= 0.01}


def run(path, options, connections, requests):
    """What `parse` finds after a run of so many requests."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "callgrind.out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--quiet"]
        command += [str(path), "0", "1", *options]
        server = start(command, None, subprocess.DEVNULL)
        try:
            address = listening(server)
            with ExitStack() as stack:
                peers = [socket.create_connection(address, TIMEOUT) for _ in range(connections)]
                for peer in peers:
                    stack.enter_context(peer)
                converse(peers, server, requests // connections)
        finally:
            server.send_signal(signal.SIGCONT)
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=TIMEOUT)
        return parse(out.read_text())


def converse(peers, server, rounds):
    """A message on each connection, and its answer; again and again."""
    word = bytes(range(SIZE))
    for peer in peers:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sendall(word)
        expect(peer, word)  # from now on it is accepted
    for _ in range(rounds):
        if len(peers) > 1:
            server.send_signal(signal.SIGSTOP)
            stopped(server.pid)
        for peer in peers:
            peer.sendall(word)
        server.send_signal(signal.SIGCONT)
        for peer in peers:
            expect(peer, word)


def stopped(pid):
    """Waits until every thread of a process has stopped, which a signal's sender does not."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        tasks = Path(f"/proc/{pid}/task").glob("*/stat")
        if all(task.read_text().rpartition(")")[2].split()[0] in "TtZ" for task in tasks):
            return
    raise Failed("the server did not stop")


def parse(text):
    """Callgrind's own cost of each (function, file, line), from its output format.

    A cost is a line `LINE COST`, where LINE may be relative to the one before it. The cost behind
    `calls=` is that of what was called, which is counted where it happened. `fn=` begins a
    function, `fl=`, `fi=` and `fe=` change the file, and `(7) name` names number 7 from then on.
    """
    names, costs = {}, {}
    function, file, line, called = "", "", 0, False
    for text_line in text.split("\n"):
        if found := re.fullmatch(r"(c?)(fn|fl|fi|fe|ob|file)=\((\d+)\)(?: (.+))?", text_line):
            of_callee, kind, number, name = found.groups()
            table = {"fn": "function", "ob": "object"}.get(kind, "file")
            if name:
                names[table, number] = name
            if kind == "fn" and not of_callee:
                function = names[table, number]
            elif table == "file" and not of_callee:
                file = names[table, number]
        elif text_line.startswith("calls="):
            called = True
        elif found := re.fullmatch(r"(\*|[+-]?\d+)(?: (\d+))?", text_line):
            position, cost = found.groups()
            relative = position[0] in "+-"
            line = line if position == "*" else line + int(position) if relative else int(position)
            if not called:
                place = (function, file, line)
                costs[place] = costs.get(place, 0) + int(cost or 0)
            called = False
    return costs


def where(places, name):
    """The functions and the lines that cost most; a function has what was inlined into it."""
    functions, lines = {}, {}
    for (function, file, line), count in places.items():
        functions[function] = functions.get(function, 0) + count
        spot = f"{short_path(file)}:{line}"
        lines[spot] = lines.get(spot, 0) + count
    listings = [f"{title}\n{listing(found)}" for title, found in
                (("functions", functions), ("lines", lines))]  # fmt: skip
    return f"{name}: {sum(places.values()):.1f} per request\n" + "\n".join(listings) + "\n"


def listing(counts):
    shown = sorted(counts.items(), key=lambda item: -item[1])[:SHOWN]
    rest = sum(counts.values()) - sum(count for _, count in shown)
    rows = [f"{count:9.1f}  {name}" for name, count in shown]
    return "\n".join([*rows, f"{rest:9.1f}  in {max(0, len(counts) - SHOWN)} others"])


def short_path(file):
    """The last parts of a path, which are enough to recognise it."""
    return "/".join(Path(file).parts[-3:])
