"""The arithmetic, against values worked out by hand."""

import unittest

from harness.summary import (
    Spread,
    at_quantile,
    middle_curve,
    quantile,
    ratios,
    spread,
    verdict,
)


class Quantiles(unittest.TestCase):
    def test_they_are_interpolated(self):
        self.assertEqual(quantile([7], 0.99), 7)
        self.assertEqual(quantile([4, 1, 3, 2], 0.5), 2.5)
        self.assertEqual(quantile([4, 1, 3, 2], 0.25), 1.75)
        self.assertEqual(quantile([10, 20, 30], 1), 30)
        self.assertEqual(quantile([10, 20, 30], 0), 10)

    def test_nothing_has_none(self):
        with self.assertRaises(ValueError):
            quantile([], 0.5)

    def test_a_spread_leaves_out_what_is_missing(self):
        self.assertEqual(spread([1, None, 2, 3, 4, 5]), Spread(3, 2, 4, 5))
        self.assertIsNone(spread([None, None]))

    def test_one_wild_window_does_not_move_the_middle(self):
        self.assertEqual(spread([10, 11, 12, 13, 1_000_000]).median, 12)


class Ratios(unittest.TestCase):
    def test_they_stay_within_a_rotation(self):
        ours, base = {0: 50, 1: 200, 2: 80}, {0: 100, 1: 400, 2: 160}
        self.assertEqual(ratios(ours, base), [0.5, 0.5, 0.5])

    def test_a_window_that_failed_takes_its_partner_along(self):
        self.assertEqual(ratios({0: 1, 1: None, 2: 3}, {0: 2, 1: 2}), [0.5])
        self.assertEqual(ratios({0: 1}, {0: None}), [])

    def test_a_verdict_needs_both_quartiles(self):
        self.assertEqual(verdict(Spread(1.1, 1.01, 1.2, 12)), "above")
        self.assertEqual(verdict(Spread(1.1, 0.99, 1.2, 12)), "level")
        self.assertEqual(verdict(Spread(0.9, 0.8, 0.99, 12)), "below")
        self.assertEqual(verdict(None), "unknown")


class Curves(unittest.TestCase):
    CURVE = [[0.0, 10], [0.5, 20], [0.9, 60], [1.0, 100]]

    def test_a_curve_is_read_between_its_points(self):
        self.assertEqual(at_quantile(self.CURVE, 0), 10)
        self.assertEqual(at_quantile(self.CURVE, 0.5), 20)
        self.assertAlmostEqual(at_quantile(self.CURVE, 0.7), 40)
        self.assertIsNone(at_quantile(self.CURVE[:-1], 0.95))

    def test_the_middle_of_curves_needs_most_of_them(self):
        short = self.CURVE[:2]
        middle = middle_curve([self.CURVE, short, short], [0.5, 0.9])
        self.assertEqual(middle, [(0.5, 20)])


if __name__ == "__main__":
    unittest.main()
