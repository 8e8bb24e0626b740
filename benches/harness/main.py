"""The command line: builds, checks, measures, reports."""

import argparse
import json
import re
import shlex
import signal
import sys
import time
from pathlib import Path

from harness import machine
from harness.arena import Arena, Failed, check
from harness.cells import FULL, QUICK, SHORT, Cell
from harness.progress import Progress
from harness.report import write_report
from harness.servers import BASE, ROOT, SERVERS, Skipped, build, build_load

# An open loop asks for this share of what the base server does in a closed one.
OPEN_SHARE = 0.5
# Rates are rounded to this many requests per second.
OPEN_STEP = 1000
# A server that fails so often in a row is not asked again in that cell.
PATIENCE = 3
# The windows of the base server that find out what it does.
CALIBRATIONS = 3


def main():
    options = parse(sys.argv[1:])
    # So that `with` and `finally` end what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if options.report:
        data = json.loads(Path(options.report).read_text())
        return finish(data, options.out)
    profile = QUICK if options.quick else SHORT if options.short else FULL
    servers = [s for s in SERVERS if s.name == BASE or options.servers.search(s.name)]
    cells = [cell for cell in profile.cells if options.cells.search(cell.key)]
    if options.list:
        show(profile, cells, servers)
        return 0
    data = {"command": "benches/run " + shlex.join(sys.argv[1:]), "profile": profile.name}
    try:
        load = build_load()
    except Skipped as failure:
        print(f"benches/run: the load generator: {failure}", file=sys.stderr)
        return 1
    data["machine"] = machine.facts()
    data["servers"] = [vars(server) for server in servers]
    paths, data["skipped"] = prepare(servers)
    minutes = options.minutes or profile.minutes
    data["cells"], data["not_run"] = measure(profile, cells, paths, load, minutes)
    data["seconds"], data["warmup"] = profile.seconds, profile.warmup
    data["rotations"], data["idle_rotations"] = profile.rotations, profile.idle_rotations
    return finish(data, options.out)


def finish(data, out):
    """Writes the pages; the exit status."""
    write_report(data, out)
    say(f"wrote {out / 'benchmarks.md'}")
    return 0 if data["cells"] else 1


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="benches/run",
        description="Measures netpoll and its peers on this machine; see benches/README.md.",
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--quick", action="store_true", help="a look: 3 minutes after the build")
    amount.add_argument("--short", action="store_true", help="the main cells: 12 minutes")
    parser.add_argument("--minutes", type=float, help="begin no rotation after so long")
    pattern = {"type": re.compile, "default": re.compile(""), "metavar": "REGEX"}
    parser.add_argument("--servers", **pattern, help=f"only these, and {BASE}")
    parser.add_argument("--cells", **pattern, help="only these; --list shows their names")
    parser.add_argument("--list", action="store_true", help="show what would be measured, and end")
    parser.add_argument("--report", metavar="FILE", help="no run: write the pages from its data")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "docs",
        metavar="DIRECTORY",
        help="where benchmarks.md and benchmarks/ go (docs)",
    )
    return parser.parse_args(arguments)


def show(profile, cells, servers):
    total = 0
    for cell in cells:
        taking_part = sum(cell.admits(server) for server in servers)
        seconds = profile.estimate(cell, taking_part)
        total += seconds
        print(f"{cell.key:32} {taking_part:3} servers  about {seconds:5.0f} s")
    print(f"about {total / 60:.0f} minutes, {profile.rotations} rotations")


def prepare(servers):
    """Builds and checks: the path of each server that takes part, and why the others don't."""
    paths, skipped, built = {}, {}, {}
    for server in servers:
        try:
            if server.program not in built:
                say(f"building {server.program}")
                try:
                    built[server.program] = build(server.program)
                except Skipped as reason:
                    built[server.program] = reason
            if isinstance(built[server.program], Skipped):
                raise built[server.program]
            check(server, built[server.program], Cell("echo", 1))
            paths[server] = built[server.program]
        except (Skipped, Failed) as reason:
            skipped[server.name] = str(reason)
            say(f"without {server.name}: {reason}")
    return paths, skipped


def measure(profile, cells, paths, load, minutes):
    """The results of each cell that was begun, and why the others were not."""
    limit = machine.descriptors()
    deadline = time.monotonic() + minutes * 60 if minutes else float("inf")
    results, not_run, planned = [], {}, []
    for cell in cells:
        reason = cell.too_much(limit)
        if reason:
            not_run[cell.key] = reason
        else:
            planned.append(cell)
    admitted = {cell: {s: p for s, p in paths.items() if cell.admits(s)} for cell in planned}
    estimates = {cell: profile.estimate(cell, len(admitted[cell])) for cell in planned}
    with Progress(sum(estimates.values())) as progress:
        for cell in planned:
            if time.monotonic() >= deadline:
                not_run[cell.key] = f"the {minutes:g} minutes were over"
                continue
            progress.begin(cell.key, estimates[cell])
            with Arena(cell, admitted[cell], load) as arena:
                measured = run_idle if cell.mode == "idle" else run_cell
                results.append(measured(profile, cell, arena, deadline, progress))
            progress.end()
    return results, not_run


def run_cell(profile, cell, arena, deadline, progress):
    warmup, seconds = profile.window(cell)
    rate = calibrate(arena, warmup, seconds) if cell.mode == "open" else None
    windows, failures = [], {}
    for rotation in range(profile.rotations):
        if time.monotonic() >= deadline:
            break
        order = [s for s in arena.order(rotation) if failures.get(s, 0) < PATIENCE]
        for turn, server in enumerate(order):
            progress.show((rotation + turn / len(order)) / profile.rotations, server.name)
            record = arena.window(server, warmup, seconds, rate)
            windows.append(tidy(record, rotation, cell))
            failures[server] = failures.get(server, 0) + 1 if "failed" in record else 0
            if failures[server] == PATIENCE:
                arena.absent[server] = f"not asked again after {PATIENCE} failures in a row"
    return result(cell, arena, windows, rate)


def run_idle(profile, cell, arena, deadline, progress):
    windows = []
    for rotation in range(profile.idle_rotations):
        order = arena.order(rotation)
        for turn, server in enumerate(order):
            if time.monotonic() >= deadline:
                return result(cell, arena, windows, None)
            progress.show((rotation + turn / len(order)) / profile.idle_rotations, server.name)
            record = arena.idle_window(server, profile.seconds)
            windows.append(tidy(record, rotation, cell))
    return result(cell, arena, windows, None)


def calibrate(arena, warmup, seconds):
    """The rate of an open loop: half of what the base server does in a closed one."""
    base = next((server for server in arena.running if server.name == BASE), None)
    if base is None:
        return OPEN_STEP
    closed = [arena.window(base, warmup, seconds) for _ in range(CALIBRATIONS)]
    rates = [record["report"]["requests_per_second"] for record in closed if "report" in record]
    best = max(rates, default=OPEN_STEP)
    return max(OPEN_STEP, round(best * OPEN_SHARE / OPEN_STEP) * OPEN_STEP)


def tidy(record, rotation, cell):
    """A window as it is kept: curves only where the report draws them."""
    record["rotation"] = rotation
    latencies = record.get("report", {}).get("latency_ns")
    if latencies and cell.mode != "open":
        latencies.pop("curve", None)
    return record


def result(cell, arena, windows, rate):
    absent = {server.name: reason for server, reason in arena.absent.items()}
    fields = ("mode", "connections", "size", "depth", "pinned", "block_pct")
    described = {field: getattr(cell, field) for field in fields}
    return {"cell": described, "rate": rate, "absent": absent, "windows": windows}


def say(text):
    print(f"benches/run: {text}", file=sys.stderr)
