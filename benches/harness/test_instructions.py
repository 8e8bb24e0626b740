"""Callgrind's format, and what better and worse mean."""

import unittest

from harness.instructions import BETTER, SAME, WORSE, judge, parse

PROFILE = """\
events: Ir
fl=(1) /src/a.rs
fn=(1) outer
10 5
+2 7
fi=(2) /src/b.rs
3 1
fe=(1)
* 2
cfi=(2)
cfn=(2) inner
calls=4 30
-1 1000
fl=(2)
fn=(2)
30 9

fn=(1)
11 100
totals: 124
"""


class Format(unittest.TestCase):
    def test_costs_are_those_of_the_function_itself(self):
        costs = parse(PROFILE)
        self.assertEqual(
            costs,
            {
                ("outer", "/src/a.rs", 10): 5,
                ("outer", "/src/a.rs", 12): 7,
                ("outer", "/src/b.rs", 3): 1,
                ("outer", "/src/a.rs", 3): 2,
                ("inner", "/src/b.rs", 30): 9,
                ("outer", "/src/b.rs", 11): 100,
            },
        )
        self.assertEqual(sum(costs.values()), 124)


class Judgement(unittest.TestCase):
    STORED = {"netpoll inline": 1000.0, "raw epoll": 100.0}

    def judged(self, ours, base=100.0):
        return judge({"netpoll inline": ours, "raw epoll": base}, self.STORED)[0]

    def test_a_percent_is_the_same(self):
        self.assertEqual([self.judged(n) for n in (991, 1000, 1009)], [SAME, SAME, SAME])

    def test_more_is_worse_and_less_is_better(self):
        self.assertEqual(self.judged(1011), WORSE)
        self.assertEqual(self.judged(989), BETTER)

    def test_the_base_is_nobody_s_fault(self):
        self.assertEqual(self.judged(1000, base=500), SAME)

    def test_without_a_stored_number_there_is_no_verdict(self):
        self.assertEqual(judge({"netpoll inline": 7}, {})[0], SAME)


if __name__ == "__main__":
    unittest.main()
