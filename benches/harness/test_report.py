"""A whole report, from a few windows: nothing is dropped, and what is lost is said."""

import json
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from harness.cells_page import loss_list
from harness.figures import blocked, of_one_processor
from harness.losses import worst
from harness.report import write_report
from harness.results import CellResult
from harness.test_results import SERVERS, window

MACHINE = {
    "cpu": "a processor", "cores": 2, "virtual": True, "memory_bytes": 1 << 30, "kernel": "Linux",
    "system": "a system", "descriptors": 1024, "governor": None, "congestion_control": "cubic",
    "rustc": "rustc 1", "cc": "cc 1", "versions": {"fast": "1.2.3"},
}  # fmt: skip


RUN = {
    "command": "benches/run --cells 'a|b'", "profile": "quick", "commit": "abc", "load_average": 0.5,
    "date": "2026-01-01 00:00 UTC", "seconds": 0.5, "warmup": 0.1, "rotations": 12,
    "idle_rotations": 1,
}  # fmt: skip


def cell(mode, windows, rate=None, **fields):
    described = {"mode": mode, "connections": 64, "size": 64, "depth": 1, "pinned": True}
    described |= {"block_pct": None, **fields}
    return {"cell": described, "run": 0, "rate": rate, "absent": {}, "windows": windows}


def windows(rates):
    return [window(name, turn, rate + turn) for name, rate in rates.items() for turn in range(4)]


def idle(server, each):
    used = {f"rss_each_{when}": each for when in ("connected", "answered", "silent")}
    return {"server": server, "rotation": 0, "report": {"server": used}, "others_cpu": 0.0}


def opened(server):
    record = window(server, 0, 1000)
    record["report"]["latency_ns"]["curve"] = [[0.0, 1e4], [0.5, 2e4], [0.9999, 1e6]]
    return record


def data():
    rates = {"raw epoll": 100, "netpoll inline": 90, "fast": 95, "slow": 50}
    failed = {"server": "slow", "rotation": 4, "failed": "it crashed", "others_cpu": 0.2}
    cells = [
        cell("echo", windows(rates) + [failed]),
        cell("echo", windows(rates), block_pct=10),
        cell("open", [opened(name) for name in rates], rate=1000),
        cell("idle", [idle(name, 100) for name in rates]),
    ]
    servers = [{**server, "program": "x", "options": []} for server in SERVERS]
    return {
        "runs": [RUN], "machine": MACHINE,
        "servers": servers, "skipped": {"slow": "no compiler"}, "cells": cells,
        "not_run": {"churn-c64-s64-pinned": "the 3 minutes were over"},
    }  # fmt: skip


class Report(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.out = Path(directory.name)
        write_report(data(), self.out)
        self.front = (self.out / "benchmarks.md").read_text()
        self.pages = [path.read_text() for path in self.out.rglob("*.md")]

    def test_nothing_is_dropped_silently(self):
        for part in (
            "rotation 4, slow, failed: it crashed",
            "Not run: `churn-c64-s64-pinned`: the 3 minutes were over",
            "**not here**: no compiler",
            "4 of 12 rotations",
            "The machine was not quiet",
            "the profile *quick*, not the full matrix",
            "| `benches/run --cells 'a\\|b'` | 2026-01-01 00:00 UTC | `abc` | A | 4 |",
        ):
            self.assertTrue(any(part in page for page in self.pages), part)

    def test_the_first_page_is_short_and_says_where_we_lose(self):
        self.assertLess(len(self.front.split()), 1000)
        self.assertLessEqual(self.front.count("!["), 5)
        self.assertIn("| requests per second | 64 connections, 64 B × 1 | fast | 0.95", self.front)

    def test_the_raw_data_makes_the_same_report_again(self):
        raw = json.loads((self.out / "benchmarks" / "data.json").read_text())
        write_report(raw, self.out)
        self.assertEqual((self.out / "benchmarks.md").read_text(), self.front)

    def test_every_picture_is_there_and_well_formed(self):
        pictures = list((self.out / "benchmarks").glob("*.svg"))
        self.assertEqual(len(pictures), 7)
        for picture in pictures:
            ElementTree.fromstring(picture.read_text())
            links = (f"(benchmarks/{picture.name})", f"({picture.name})")
            self.assertTrue(any(link in page for page in self.pages for link in links))

    def test_cells_of_two_processors_are_told_apart_and_not_joined(self):
        raw = data()
        machines = [MACHINE, {**MACHINE, "cpu": "another one"}]
        raw["runs"] = [{**RUN, "machine": machine} for machine in machines]
        faster = windows({"raw epoll": 300, "netpoll inline": 330, "fast": 220})
        raw["cells"] += [cell("echo", faster, block_pct=share) for share in (1, 50)]
        for added in raw["cells"][-2:]:
            added["run"] = 1
        write_report(raw, self.out)
        front = (self.out / "benchmarks.md").read_text()
        self.assertIn("(a processor, Linux: 4 cells)", front)
        self.assertIn("(another one, Linux: 2 cells)", front)
        self.assertIn("1 %: 1.50 [1.49–1.50] of `fast`; 10 %: 0.95", front)
        self.assertIn("The picture has the shares that one machine has measured.", front)
        results = [CellResult(c, raw["servers"], machines[c["run"]]["cpu"]) for c in raw["cells"]]
        joined = of_one_processor(blocked(results))
        self.assertEqual([result.cell.block_pct for result in joined], [1, 50])
        every = (self.out / "benchmarks" / "cells.md").read_text()
        self.assertIn("another one, Linux.", every)

    def test_every_page_has_one_title(self):
        self.assertEqual(len(self.pages), 3)
        for page in self.pages:
            self.assertEqual(sum(line.startswith("# ") for line in page.split("\n")), 1)


class Choices(unittest.TestCase):
    def report(self, raw):
        with tempfile.TemporaryDirectory() as directory:
            write_report(raw, Path(directory))
            return "".join(path.read_text() for path in Path(directory).rglob("*.md"))

    def test_hand_off_is_held_against_the_best_of_the_fixed_choices(self):
        raw = data()
        names = ("netpoll hand-off", "netpoll inline", "netpoll pool of 8")
        described = {"program": "x", "options": [], "ours": True}
        raw["servers"] = [{"name": name, **described} for name in names]
        rates = dict(zip(names, (1900, 100, 2000)))
        raw["cells"] = [cell("echo", windows(rates), block_pct=50, way="some")]
        text = self.report(raw)
        row = next(line for line in text.split("\n") if line.startswith("| 50 % block 1 ms, on"))
        self.assertIn("| 0.95 [0.95–0.95] |", row)

    def test_datagrams_are_shown_by_processor_second_and_with_what_was_lost(self):
        raw = data()
        names = ("netpoll udp", "tokio udp current-thread", "raw udp in batches")
        described = {"program": "x", "options": []}
        raw["servers"] = [
            {"name": name, "ours": name == names[0], **described} for name in names
        ]  # fmt: skip
        records = windows(dict.fromkeys(names, 100))
        for record in records:
            each = {names[0]: 2, names[1]: 4, names[2]: 1}[record["server"]]
            record["report"]["server"]["cpu_seconds_per_million"] = each
            record["report"] |= {"lost": 25, "requests": 75}
        raw["cells"] = [cell("datagrams", records, what="flood", size=1200)]
        text = self.report(raw)
        rows = [line for line in text.split("\n") if line.startswith("| 64 flows, flood of")]
        wanted = "| 2.00 [2.00–2.00] | 4.00 [4.00–4.00] | 0.50 [0.50–0.50] |"
        self.assertTrue(any(row.endswith(wanted) for row in rows), rows)
        self.assertIn("| p99 µs | lost | busy |", text)
        self.assertIn("| 25 % |", text)

    def test_what_is_missing_of_the_matrix_is_listed(self):
        raw = data()
        raw["runs"] = [{**RUN, "profile": "full"}]
        text = self.report(raw)
        self.assertIn("A part of the full matrix", text)
        self.assertIn("Not measured of the full matrix: `echo-c1-s64-d1-pinned`", text)


class Losses(unittest.TestCase):
    def result(self, **rates):
        named = {name.replace("_", " "): rate for name, rate in rates.items()}
        return CellResult(cell("echo", windows(named)), SERVERS)

    def test_a_peer_that_is_faster_is_named_with_the_ratio(self):
        text = loss_list([self.result(raw_epoll=1000, netpoll_inline=900, fast=1000, slow=500)])
        self.assertIn("requests per second: netpoll inline ÷ fast (0.90 [0.90–0.90])", text)
        self.assertNotIn("slow", text)

    def test_the_limits_are_no_peers(self):
        text = loss_list([self.result(raw_epoll=1000, netpoll_inline=900, slow=500)])
        self.assertEqual(text, "In no cell that was measured.")

    def test_the_deepest_come_first_and_cells_are_counted(self):
        little = self.result(raw_epoll=1000, netpoll_inline=900, fast=1000, slow=950)
        much = self.result(raw_epoll=1000, netpoll_inline=100, fast=1000)
        none = self.result(raw_epoll=1000, netpoll_inline=1200, fast=1000)
        found, cells = worst([little, much, none], "rate")
        self.assertEqual([round(loss.ratio.median, 1) for loss in found], [0.1, 0.9])
        self.assertEqual(([loss.peer for loss in found], cells), (["fast", "fast"], 3))


if __name__ == "__main__":
    unittest.main()
