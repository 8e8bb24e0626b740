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
from harness.arena import Arena, check
from harness.builds import ROOT, Skipped, build, build_load
from harness.cells import Cell
from harness.loads import missing
from harness.probes import Failed
from harness.profiles import PROFILES
from harness.progress import Progress
from harness.report import data_path, upgrade, write_data, write_report
from harness.servers import BASE, SERVERS

# An open loop asks for this share of what the base server does in a closed one.
OPEN_SHARE = 0.5
# Rates are rounded to this many requests per second.
OPEN_STEP = 1000
# A server that fails so often in a row is not asked again in that cell.
PATIENCE = 3
INTERRUPTED = "the run was interrupted"
# The windows of the base server that find out what it does.
CALIBRATIONS = 3


def main():
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is measured stays
    if options.report:
        write_report(json.loads(options.report.read_text()), options.out)
        return 0
    profile = PROFILES[options.profile]
    cells = [cell for cell in profile.cells if options.cells.search(cell.key)]
    servers = taking_part(cells, options.servers)
    if options.list:
        show(profile, cells, servers)
        return 0
    try:
        data = new_data(profile, servers, machine.facts())
        if options.add:
            data = added(data, json.loads(data_path(options.out).read_text()))
        load = build_load(options.unless_fresh)
    except (OSError, ValueError, Skipped) as failure:
        say(f"nothing was measured: {failure}")
        return 1
    tools = {"load": load, "origin": build("raw_epoll", options.unless_fresh)}
    paths, skipped = prepare(servers, cells, tools, options.unless_fresh)
    if options.build:
        return 0
    data["skipped"] |= skipped
    minutes = options.minutes or profile.minutes
    interrupted = measure(profile, cells, paths, tools, minutes, data, options.out)
    write_report(data, options.out)
    say(f"wrote {options.out / 'benchmarks.md'}")
    return 130 if interrupted else 0 if data["cells"] else 1


def new_data(profile, servers, facts):
    """What is kept of a run, before it has measured anything."""
    run = {"command": "benches/run " + shlex.join(sys.argv[1:]), "profile": profile.name}
    run |= {key: facts.pop(key) for key in ("commit", "date", "load_average")}
    run |= {"seconds": profile.seconds, "warmup": profile.warmup}
    run |= {"rotations": profile.rotations, "idle_rotations": profile.idle_rotations}
    described = [vars(server) for server in servers]
    kept = {"runs": [run | {"machine": facts}], "machine": facts, "servers": described}
    return kept | {"skipped": {}, "not_run": {}, "cells": []}


def added(new, old):
    """The data of earlier runs, to which a new one will add its cells.

    The machine may have become another one in between: ratios are of one cell, and each cell says
    of which machine it is. Pictures that join cells take those of one processor.
    """
    upgrade(old)
    names = {server["name"] for server in new["servers"]}
    servers = new["servers"] + [s for s in old["servers"] if s["name"] not in names]
    skipped = {name: why for name, why in old["skipped"].items() if name not in names}
    kept = {"runs": old["runs"] + new["runs"], "servers": servers, "skipped": skipped}
    return {**old, "machine": new["machine"], **kept}


def put(data, result):
    """Takes a cell's result in, in the place of an earlier one."""
    result["run"] = len(data["runs"]) - 1
    # By value: what earlier harnesses wrote has fewer fields.
    here = Cell(**result["cell"])
    same = [cell for cell in data["cells"] if Cell(**cell["cell"]) == here]
    if same:
        data["cells"][data["cells"].index(same[0])] = result
    else:
        data["cells"].append(result)
    data["not_run"].pop(here.key, None)


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="benches/run",
        description="Measures netpoll and its peers on this machine; see benches/README.md.",
    )
    amount = parser.add_mutually_exclusive_group()
    for name, what in {
        "quick": "a look: 3 minutes after the build",
        "short": "the main cells of echoes: 14 minutes",
        "headline": "what the first page shows, with all protocols: 15 minutes",
        "datagrams": "datagrams alone: 6 minutes",
    }.items():
        amount.add_argument(
            f"--{name}", action="store_const", dest="profile", const=name, default="full", help=what
        )
    parser.add_argument("--minutes", type=float, help="begin no rotation after so long")
    pattern = {"type": re.compile, "default": re.compile(""), "metavar": "REGEX"}
    parser.add_argument("--servers", **pattern, help=f"only these, and {BASE} or its like")
    parser.add_argument("--cells", **pattern, help="only these; --list shows their names")
    parser.add_argument("--list", action="store_true", help="show what would be measured, and end")
    parser.add_argument(
        "--add", action="store_true", help="keep the cells that were measured before"
    )
    parser.add_argument(
        "--unless-fresh",
        action="store_true",
        help="build no program that is newer than its sources",
    )
    parser.add_argument("--build", action="store_true", help="build and check, measure nothing")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="no run: write the pages from its data"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "docs",
        metavar="DIRECTORY",
        help="where benchmarks.md and benchmarks/ go (docs)",
    )
    return parser.parse_args(arguments)


def taking_part(cells, pattern):
    """The servers that are asked for and do any of these cells, and what they are divided by."""
    bases = {cell.base for cell in cells}
    return [
        server
        for server in SERVERS
        if any(cell.admits(server) for cell in cells)
        and (server.name in bases or pattern.search(server.name))
    ]


def show(profile, cells, servers):
    total = 0
    for cell in cells:
        taking_part = sum(cell.admits(server) for server in servers)
        seconds = profile.estimate(cell, taking_part)
        total += seconds
        print(f"{cell.key:32} {taking_part:3} servers  about {seconds:5.0f} s")
    print(f"about {total / 60:.0f} minutes, {profile.rotations} rotations")


def prepare(servers, cells, tools, unless_fresh):
    """Builds and checks: the path of each server that takes part, and why the others don't."""
    paths, skipped, built = {}, {}, {}
    for server in servers:
        try:
            if server.program not in built:
                say(f"building {server.program}")
                try:
                    built[server.program] = build(server.program, unless_fresh)
                except Skipped as reason:
                    built[server.program] = reason
            if isinstance(built[server.program], Skipped):
                raise built[server.program]
            cell = next(cell for cell in cells if cell.admits(server))
            check(server, built[server.program], cell, tools["origin"])
            paths[server] = built[server.program]
        except (Skipped, Failed) as reason:
            skipped[server.name] = str(reason)
            say(f"without {server.name}: {reason}")
    return paths, skipped


def measure(profile, cells, paths, tools, minutes, data, out):
    """Puts into the data each cell that was measured, and why the others were not; whether it was
    interrupted. The file follows cell by cell, so that a run which is killed was not for nothing.
    """
    limit = machine.descriptors()
    deadline = time.monotonic() + minutes * 60 if minutes else float("inf")
    measured = {Cell(**earlier["cell"]) for earlier in data["cells"]}
    not_run, planned, interrupted = {}, [], False
    for cell in cells:
        reason = cell.too_much(limit) or missing(cell.kind.loader)
        if reason:
            not_run[cell.key] = reason
        else:
            planned.append(cell)
    admitted = {cell: {s: p for s, p in paths.items() if cell.admits(s)} for cell in planned}
    estimates = {cell: profile.estimate(cell, len(admitted[cell])) for cell in planned}
    with Progress(sum(estimates.values())) as progress:
        for cell in planned:
            if interrupted or time.monotonic() >= deadline:
                over = f"the {minutes:g} minutes were over" if not interrupted else INTERRUPTED
                not_run[cell.key] = over
                continue
            progress.begin(cell.key, estimates[cell])
            try:
                with Arena(cell, admitted[cell], **tools) as arena:
                    run = run_idle if cell.mode == "idle" else run_cell
                    put(data, run(profile, cell, arena, deadline, progress))
            except KeyboardInterrupt:
                interrupted, not_run[cell.key] = True, INTERRUPTED
                continue
            write_data(data, out)
            progress.end()
    news = {key: why for key, why in not_run.items() if key not in {c.key for c in measured}}
    data["not_run"] |= news
    return interrupted


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
    return {"cell": vars(cell).copy(), "rate": rate, "absent": absent, "windows": windows}


def say(text):
    print(f"benches/run: {text}", file=sys.stderr)
