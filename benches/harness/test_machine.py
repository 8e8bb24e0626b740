"""What is read from /proc, and what is concluded from it."""

import os
import time
import unittest

from harness.machine import (
    TICK,
    CpuTimes,
    cpu_times,
    others,
    own_cpu,
    parse_cpu_times,
    process_cpu,
)


class Times(unittest.TestCase):
    def test_waiting_and_stealing_are_not_work(self):
        fields = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
        line = "cpu  " + " ".join(str(field * TICK) for field in fields)
        self.assertEqual(parse_cpu_times(line, 5.0), CpuTimes(1 + 2 + 4 + 32 + 64, 128, 5.0))

    def test_the_machine_says_something(self):
        self.assertGreater(cpu_times().busy, 0)

    def test_a_process_clock_runs(self):
        before = process_cpu(os.getpid())
        while time.process_time() < before + 0.002:
            pass
        self.assertGreater(process_cpu(os.getpid()), before)

    def test_ours_is_not_theirs(self):
        cores = os.cpu_count()
        before, after = CpuTimes(10, 0, 0.0), CpuTimes(10 + cores, 0, 2.0)
        self.assertAlmostEqual(others(before, after, 0), 0.5)
        self.assertAlmostEqual(others(before, after, cores / 2), 0.25)
        self.assertEqual(others(before, after, 2 * cores), 0.0)
        self.assertEqual(others(before, before, 0), 0.0)
        self.assertGreater(own_cpu(), 0)


if __name__ == "__main__":
    unittest.main()
