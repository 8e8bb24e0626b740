"""Windows become values, and failures stay visible."""

import unittest

from harness.results import CellResult

SERVERS = [
    {"name": "raw epoll", "ours": False},
    {"name": "netpoll inline", "ours": True},
    {"name": "fast", "ours": False},
    {"name": "slow", "ours": False},
]


def window(server, rotation, rate, p99=1000):
    latency = {"p50": p99 / 2, "p99": p99, "p99.9": 2 * p99}
    used = {"cpu_seconds": 0.4, "cpu_seconds_per_million": 4}
    report = {"requests_per_second": rate, "latency_ns": latency, "server": used}
    report |= {"seconds": 0.5, "load_cpu_seconds": 0.49}
    return {"server": server, "rotation": rotation, "report": report, "others_cpu": 0.1}


def result(*windows):
    cell = {"mode": "echo", "connections": 1, "size": 64, "depth": 1}
    cell |= {"pinned": True, "block_pct": None}
    return CellResult(
        {"cell": cell, "run": 0, "rate": None, "absent": {}, "windows": windows}, SERVERS
    )


class Results(unittest.TestCase):
    def test_ratios_are_of_one_rotation(self):
        found = result(
            window("raw epoll", 0, 100),
            window("netpoll inline", 0, 90),
            window("raw epoll", 1, 1000),
            window("netpoll inline", 1, 900),
        )
        self.assertEqual(found.ratio("netpoll inline", "raw epoll", "rate").median, 0.9)
        self.assertEqual(found.ours, ["netpoll inline"])

    def test_the_best_peer_is_not_a_limit_and_not_ours(self):
        found = result(
            window("raw epoll", 0, 999),
            window("netpoll inline", 0, 500),
            window("fast", 0, 300, p99=7),
            window("slow", 0, 200, p99=9),
        )
        self.assertEqual(found.best_peer("rate", highest=True), "fast")
        self.assertEqual(found.best_peer("p99", highest=False), "fast")
        self.assertIsNone(result(window("raw epoll", 0, 1)).best_peer("rate", highest=True))

    def test_a_failed_window_has_no_value_and_is_listed(self):
        failed = {"server": "slow", "rotation": 0, "failed": "it crashed"}
        found = result(failed, window("slow", 1, 5))
        self.assertEqual(found.values("slow", "rate"), {0: None, 1: 5})
        self.assertEqual(found.spread("slow", "rate").count, 1)
        self.assertEqual(found.failures(), [failed])

    def test_a_saturated_load_generator_is_noticed(self):
        self.assertTrue(result(window("fast", 0, 5)).load_is_the_limit())
        idle = window("fast", 0, 5)
        idle["report"]["load_cpu_seconds"] = 0.2
        self.assertFalse(result(idle).load_is_the_limit())

    def test_what_was_not_measured_is_none(self):
        self.assertIsNone(result(window("slow", 0, 5)).spread("slow", "silent"))
        self.assertEqual(result(window("slow", 0, 5)).disturbance()[1], 0.1)


if __name__ == "__main__":
    unittest.main()
