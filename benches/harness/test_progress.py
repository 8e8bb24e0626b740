"""The bar says how far it is and what is left."""

import unittest

from harness.progress import clock, draw


class Bar(unittest.TestCase):
    def test_it_grows_and_estimates(self):
        self.assertEqual(draw(0, 0, "x"), "[........................]   0%  estimating  x")
        self.assertEqual(draw(0.25, 30, "x"), "[######..................]  25%  1:30 left  x")
        self.assertEqual(draw(1, 30, "x"), "[########################] 100%  0:00 left  x")

    def test_times_are_read_as_clocks(self):
        self.assertEqual([clock(s) for s in (5, 65, 3665)], ["0:05", "1:05", "1:01:05"])


if __name__ == "__main__":
    unittest.main()
