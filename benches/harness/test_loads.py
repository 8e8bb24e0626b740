"""What load generators say becomes a report of one form, or a reason."""

import unittest

from harness.loads import missing, parse_redis, parse_report, parse_wrk
from harness.probes import Failed

WRK = b"""Running 1s test
  1 threads and 64 connections

{"requests": 1000, "us": 500000, "bytes": 2000000, "errors": 0, "p50": 10, "p99": 20, "p999": 30}
"""
REDIS = b"""\
"test","rps","avg_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms"
"GET","50000.00","0.5","0.4","0.7","0.9"
"""


class Reports(unittest.TestCase):
    def test_a_run_with_errors_has_failed(self):
        with self.assertRaisesRegex(Failed, "says: connection 0: reset"):
            parse_report(1, b'{"first_errors": ["connection 0: reset", "x"]}', b"")
        with self.assertRaisesRegex(Failed, "says: load: no"):
            parse_report(1, b"", b"load: no\nmore")

    def test_what_is_known_is_left_out_of_a_report(self):
        self.assertEqual(parse_report(0, b'{"mode": "echo", "requests": 7}', b""), {"requests": 7})

    def test_wrk_is_read_by_its_last_line(self):
        report = parse_wrk(0, WRK, b"")
        self.assertEqual(report["requests_per_second"], 2000)
        self.assertEqual(report["seconds"], 0.5)
        self.assertEqual(report["latency_ns"], {"p50": 1e4, "p99": 2e4, "p99.9": 3e4})

    def test_a_latency_that_wrk_has_not_counted_is_none(self):
        report = parse_wrk(0, WRK.replace(b'"p99": 20', b'"p99": 0'), b"")
        self.assertIsNone(report["latency_ns"]["p99"])

    def test_wrk_with_errors_has_failed(self):
        with self.assertRaisesRegex(Failed, "3 errors"):
            parse_wrk(0, WRK.replace(b'"errors": 0', b'"errors": 3'), b"")
        with self.assertRaisesRegex(Failed, "unable to connect"):
            parse_wrk(1, b"", b"unable to connect to 127.0.0.1")

    def test_redis_benchmark_is_read_by_the_names_of_its_columns(self):
        report = parse_redis(0, REDIS, b"", 25_000)
        self.assertEqual((report["requests"], report["seconds"]), (25_000, 0.5))
        self.assertEqual(report["latency_ns"], {"p50": 0.4e6, "p99": 0.9e6})
        for status, out in ((1, REDIS), (0, b""), (0, REDIS + REDIS)):
            with self.assertRaisesRegex(Failed, "redis-benchmark says"):
                parse_redis(status, out, b"", 1)

    def test_ours_is_always_there(self):
        self.assertIsNone(missing("load"))


if __name__ == "__main__":
    unittest.main()
