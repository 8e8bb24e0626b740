"""How cells are run: in rotations, until the time is over, without servers that always fail."""

import math
import re
import unittest

from harness.cells import Cell
from harness.main import PATIENCE, added, calibrate, new_data, put, run_cell, taking_part
from harness.profiles import QUICK
from harness.servers import BASE, Server

GOOD, BAD = Server(BASE, "x"), Server("bad", "x")
CELL = Cell("echo", 1)


class Stage:
    """An arena with servers that behave as the test says."""

    def __init__(self, rates=()):
        self.running, self.absent, self.rates = {GOOD: None, BAD: None}, {}, iter(rates)

    def order(self, rotation):
        return list(self.running)

    def window(self, server, warmup, seconds, rate=None):
        record = {"server": server.name}
        if server == BAD:
            return record | {"failed": "as always"}
        return record | {"report": {"requests_per_second": next(self.rates, 1)}}


class Silence:
    def show(self, share, server):
        pass


class Participants(unittest.TestCase):
    def test_those_that_do_a_cell_and_are_asked_for_and_what_they_are_divided_by(self):
        cells = [Cell("proxy", 1, what="echo"), Cell("echo", 1)]
        names = [server.name for server in taking_part(cells, re.compile("^netpoll"))]
        self.assertIn("netpoll proxy", names)
        self.assertTrue({"haproxy", BASE} <= set(names))
        self.assertFalse({"nginx", "tokio", "netpoll redis"} & set(names))


class Rotations(unittest.TestCase):
    def test_who_always_fails_is_not_asked_for_ever_and_that_is_said(self):
        stage = Stage()
        windows = run_cell(QUICK, CELL, stage, math.inf, Silence())["windows"]
        asked = [window["server"] for window in windows]
        self.assertEqual(asked.count(BASE), QUICK.rotations)
        self.assertEqual(asked.count("bad"), PATIENCE)
        self.assertIn("not asked again", stage.absent[BAD])

    def test_no_rotation_begins_when_the_time_is_over(self):
        self.assertEqual(run_cell(QUICK, CELL, Stage(), -math.inf, Silence())["windows"], [])

    def test_an_open_loop_asks_for_half_of_the_base_s_best(self):
        self.assertEqual(calibrate(Stage([90_000, 121_300, 3]), 0, 0), 61_000)
        self.assertEqual(calibrate(Stage([10, 10, 10]), 0, 0), 1000)


class Additions(unittest.TestCase):
    FACTS = {"cpu": "x", "cores": 2, "kernel": "x", "rustc": "x"}

    def data(self, **facts):
        whole = {**self.FACTS, "commit": "abc", "date": "now", "load_average": 0, **facts}
        return new_data(QUICK, [GOOD], whole)

    def result(self, connections):
        cell = vars(Cell("echo", connections))
        return {"cell": cell, "windows": [], "absent": {}, "rate": None}

    def test_a_cell_takes_the_place_of_an_earlier_one_and_says_of_which_run_it_is(self):
        old = self.data()
        put(old, self.result(1))
        put(old, self.result(64))
        old["not_run"] = {Cell("echo", 1000).key: "the time was over"}
        both = added(self.data(commit="def"), old)
        put(both, self.result(64))
        put(both, self.result(1000))
        self.assertEqual([cell["run"] for cell in both["cells"]], [0, 1, 1])
        self.assertEqual([run["commit"] for run in both["runs"]], ["abc", "def"])
        self.assertEqual(both["not_run"], {})

    def test_a_cell_of_an_earlier_harness_is_replaced_though_it_has_fewer_fields(self):
        old = self.data()
        put(old, self.result(1))
        del old["cells"][0]["cell"]["what"]
        both = added(self.data(commit="def"), old)
        put(both, self.result(1))
        self.assertEqual([cell["run"] for cell in both["cells"]], [1])

    def test_another_machine_s_cells_keep_its_name(self):
        both = added(self.data(), self.data(cpu="y"))
        self.assertEqual([run["machine"]["cpu"] for run in both["runs"]], ["y", "x"])

    def test_another_kernel_s_cells_keep_its_name(self):
        old = self.data(kernel="y")
        del old["runs"][0]["machine"]  # as earlier harnesses wrote it
        both = added(self.data(), old)
        self.assertEqual([run["machine"]["kernel"] for run in both["runs"]], ["y", "x"])


if __name__ == "__main__":
    unittest.main()
