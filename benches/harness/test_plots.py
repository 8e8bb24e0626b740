"""Pictures are well-formed, stand alone, and their scales are round."""

import unittest
import xml.etree.ElementTree as ElementTree

from harness.plots import bars, lines, log_ticks, nice_above, short, ticks
from harness.summary import Spread


class Pictures(unittest.TestCase):
    def test_bars_are_as_long_as_their_values(self):
        rows = [("a <b>", Spread(0.5, 0.4, 0.6, 12), "red"), ("c", Spread(1, 0.9, 1.9, 12), "blue")]
        picture = ElementTree.fromstring(bars("title", "axis", [("panel", rows)] * 3))
        rects = [r for r in picture.iter() if r.tag.endswith("rect") and r.get("height") == "12"]
        widths = [float(rect.get("width")) for rect in rects]
        self.assertEqual(len(widths), 6)
        self.assertAlmostEqual(widths[0] * 2, widths[1])
        words = [t.text for t in picture.iter() if t.tag.endswith("text")]
        self.assertIn("a <b>", words)

    def test_lines_without_points_say_so(self):
        ElementTree.fromstring(lines("t", ("x", "y"), [], [(0, "0")]))
        series = [("a", "red", [(0, 10), (1, 1000)]), ("b", "blue", [(0, 20)])]
        picture = lines("t", ("x", "y"), series, [(0, "0"), (1, "1")])
        ElementTree.fromstring(picture)
        self.assertNotIn("href", picture)


class Scales(unittest.TestCase):
    def test_they_are_round(self):
        self.assertEqual([nice_above(v) for v in (0.9, 1, 1.03, 7, 80)], [1, 1, 1.25, 7.5, 100])
        self.assertEqual(ticks(1.25)[0], 0)
        self.assertLessEqual(max(ticks(1.25)), 1.25)
        self.assertEqual(log_ticks(10, 120), [10, 20, 50, 100])

    def test_numbers_are_short(self):
        values = (0, 0.987654, 1, 12.34, 345.6, 9999, 12_345, 1_234_567)
        expected = ["0", "0.988", "1", "12.3", "346", "9999", "12.3 k", "1.23 M"]
        self.assertEqual([short(value) for value in values], expected)


if __name__ == "__main__":
    unittest.main()
