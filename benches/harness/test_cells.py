"""The matrix is the one that was promised, and the profiles fit their time."""

import unittest

from harness.cells import WAYS, Cell
from harness.profiles import BLOCK_SHARES, FULL, HEADLINE, PROFILES, QUICK, SHORT
from harness.servers import SERVERS


class Matrix(unittest.TestCase):
    def test_the_full_profile_has_every_combination_twice(self):
        echoes = [c for c in FULL.cells if c.mode == "echo" and c.block_pct is None]
        wanted = {
            (connections, size, depth, pinned)
            for connections in (1, 64, 1000, 10_000)
            for size in (64, 1024, 16384)
            for depth in (1, 16)
            for pinned in (True, False)
        }
        got = [(c.connections, c.size, c.depth, c.pinned) for c in echoes]
        self.assertEqual(set(got), wanted)
        self.assertEqual(len(got), len(wanted))
        blocking = [c for c in FULL.cells if c.block_pct is not None and not c.way]
        compared = [c for c in FULL.cells if c.compares_modes]
        self.assertEqual(tuple(c.block_pct for c in blocking), BLOCK_SHARES)
        self.assertEqual({c.way for c in compared}, set(WAYS))

    def test_where_modes_are_compared_they_alone_take_part_and_know_the_way(self):
        cell = next(c for c in FULL.cells if c.way == "compute")
        self.assertEqual({s.program for s in SERVERS if cell.admits(s)}, {"netpoll_echo"})
        told = ["--block-us", "2000", "--block-pct", "5", "--block-way", "compute"]
        self.assertEqual(cell.block_options, told)

    def test_a_window_sees_both_sides_of_a_switch(self):
        cell = next(c for c in FULL.cells if c.way == "switch")
        self.assertEqual(FULL.window(cell)[1] % 2, 0)

    def test_every_cell_has_us_its_base_and_a_peer(self):
        for cell in FULL.cells:
            taking_part = [server for server in SERVERS if cell.admits(server)]
            self.assertTrue(any(server.ours for server in taking_part), cell.key)
            if not cell.compares_modes:
                self.assertIn(cell.base, [server.name for server in taking_part], cell.key)
                self.assertFalse(all(server.ours for server in taking_part), cell.key)

    def test_the_headline_is_a_part_of_the_matrix_with_all_protocols(self):
        self.assertLessEqual(set(HEADLINE.cells), set(FULL.cells))
        protocols = {server.speaks for server in SERVERS}
        self.assertEqual({cell.kind.speaks for cell in HEADLINE.cells}, protocols)

    def test_hot_connections_are_told_from_the_silent_and_the_bad_from_the_good(self):
        hot = next(c for c in FULL.cells if c.way == "hot")
        self.assertEqual(hot.block_options[1], "20")
        self.assertTrue(all(s.hot for s in SERVERS if hot.admits(s)))
        bad = next(c for c in FULL.cells if c.way == "bad")
        self.assertEqual(bad.block_options[1], "500000")
        self.assertGreater(HEADLINE.window(bad)[1], 0.5)

    def test_datagrams_come_one_by_one_in_trains_and_in_floods(self):
        cells = {cell.key: cell for cell in FULL.cells if cell.mode == "datagrams"}
        trains = cells["datagrams-trains-c1-s1200-d64-pinned"]
        self.assertEqual((trains.in_trains, trains.load_mode), (True, "udp"))
        self.assertEqual(trains.title, "1 flow, datagrams of 1 200 B × 64 in trains")
        single = cells["datagrams-single-c16-s64-d1-pinned"]
        self.assertEqual((single.in_trains, single.load_mode), (False, "udp"))
        self.assertEqual(single.title, "16 flows, datagrams of 64 B × 1")
        flood = cells["datagrams-flood-trains-c1-s1200-d1-pinned"]
        self.assertEqual((flood.in_trains, flood.load_mode), (True, "udp-flood"))
        self.assertEqual({s.speaks for s in SERVERS if flood.admits(s)}, {"datagrams"})

    def test_keys_are_names(self):
        for profile in PROFILES.values():
            keys = [cell.key for cell in profile.cells]
            self.assertEqual(len(keys), len(set(keys)))

    def test_profiles_fit_their_time(self):
        for profile in (QUICK, SHORT, HEADLINE):
            seconds = sum(
                profile.estimate(cell, sum(cell.admits(server) for server in SERVERS))
                for cell in profile.cells
            )
            self.assertLess(seconds, profile.minutes * 60, profile.name)

    def test_rotations_and_windows_are_those_of_the_method(self):
        self.assertGreaterEqual(FULL.rotations, 12)
        self.assertTrue(0.4 <= FULL.seconds <= 0.6)

    def test_what_does_not_fit_the_machine_says_why(self):
        self.assertIsNone(Cell("echo", 10_000).too_much(20_000))
        self.assertIn("10000 descriptors", Cell("echo", 10_000).too_much(10_000))
        self.assertIn("2500 MiB", Cell("echo", 10_000, 16384, 16).too_much(20_000))


if __name__ == "__main__":
    unittest.main()
