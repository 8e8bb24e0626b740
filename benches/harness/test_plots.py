"""Pictures are well-formed, stand alone, and their scales are round."""

import unittest
import xml.etree.ElementTree as ElementTree

from harness.figures import COLD, WARM, choose_styles, colours
from harness.plots import (
    Column, Row, Style, lines, linear_top, log_ticks, nice_above, rows, short, spaced, ticks,
)  # fmt: skip
from harness.servers import SERVERS
from harness.summary import Spread

RED, BLUE = Style("red", ours=True), Style("blue", "dashed")


def elements(picture, tag):
    return [e for e in ElementTree.fromstring(picture).iter() if e.tag.endswith(tag)]


class Pictures(unittest.TestCase):
    def test_bars_are_as_long_as_their_values(self):
        half, whole = Spread(0.5, 0.4, 0.6, 12), Spread(1, 0.9, 1.9, 12)
        of_panel = [Row("a <b>", RED, (half,)), Row("c", BLUE, (whole,))]
        picture = rows("title", [("panel", (Column("axis", mark=1),), of_panel)] * 3)
        bars = [rect for rect in elements(picture, "rect") if rect.get("height") == "12"]
        widths = [float(rect.get("width")) for rect in bars]
        self.assertEqual(len(widths), 6)
        self.assertAlmostEqual(widths[0] * 2, widths[1], delta=0.2)
        self.assertIn("a <b>", [text.text for text in elements(picture, "text")])

    def test_an_axis_ends_behind_its_own_longest_bar(self):
        one, long = Spread(1, 1, 1, 3), Spread(3.45, 3.4, 3.5, 3)
        self.assertEqual(linear_top([one], 1), 1.1)
        self.assertEqual(linear_top([one, long], 1), 4)
        columns = (Column("x", mark=1, width=100),)
        pairs = (("a", one), ("b", long))
        panels = [(name, columns, [Row(name, RED, (each,))]) for name, each in pairs]
        picture = rows("t", panels)
        bars = [rect for rect in elements(picture, "rect") if rect.get("height") == "12"]
        self.assertTrue(all(float(rect.get("width")) > 80 for rect in bars))

    def test_what_was_not_measured_has_a_dash(self):
        of_panel = [Row("a", RED, (None,)), Row("b", BLUE, (Spread(1, 1, 1, 1),))]
        picture = rows("t", [("", (Column("x"),), of_panel)])
        words = [t.text for t in elements(picture, "text")]
        self.assertIn("–", words)
        none = [Row("a", RED, (Spread(0, 0, 0, 1),))]
        zero = rows("t", [("", (Column("x", log=True),), none)])
        self.assertIn("not measured", [t.text for t in elements(zero, "text")])
        nothing = rows("t", [("", (Column("x"),), [Row("a", RED, (None,))])])
        self.assertIn("not measured", [t.text for t in elements(nothing, "text")])

    def test_lines_without_points_say_so(self):
        ElementTree.fromstring(lines("t", [("y", [])], [(0, "0")]))
        series = [("a", RED, [(0, 10), (1, 1000)]), ("b", BLUE, [(0, 20)])]
        picture = lines("t", [("y", series), ("z", [])], [(0, "0"), (1, "1")])
        self.assertNotIn("href", picture)
        # Ours is drawn last, so over the other.
        drawn = [line.get("stroke") for line in elements(picture, "polyline")]
        self.assertEqual(drawn, ["blue", "red"])

    def test_no_two_have_a_colour(self):
        for hues in (WARM, COLD):
            many = colours(("#000000", "#ffffff"), 60, hues)
            self.assertEqual(len(set(many)), 60)
        described = [vars(server) for server in SERVERS]
        styles = choose_styles({"servers": described})
        self.assertEqual(len({style.colour for style in styles.values()}), len(SERVERS))
        self.assertEqual(choose_styles({"servers": described[::-1]}), styles)


class Scales(unittest.TestCase):
    def test_they_are_round(self):
        self.assertEqual([nice_above(v) for v in (0.9, 1, 1.03, 7, 80)], [1, 1, 1.1, 7.5, 100])
        self.assertEqual(ticks(1.25)[0], 0)
        self.assertLessEqual(max(ticks(1.25)), 1.25)
        self.assertEqual(log_ticks(10, 120), [10, 20, 50, 100])
        self.assertEqual(log_ticks(0.78, 1.12), [0.8, 0.9, 1, 1.1])
        self.assertEqual(spaced([0.01, 0.1, 1, 10, 100, 1000, 10_000]), [0.01, 1, 100, 10_000])

    def test_numbers_are_short(self):
        values = (0, 0.987654, 1, 12.34, 345.6, 9999, 12_345, 1_234_567)
        expected = ["0", "0.988", "1", "12.3", "346", "9999", "12.3 k", "1.23 M"]
        self.assertEqual([short(value) for value in values], expected)


if __name__ == "__main__":
    unittest.main()
