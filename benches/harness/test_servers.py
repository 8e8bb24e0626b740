"""What is read from compilers and lock files."""

import unittest

from harness.servers import BASE, SERVERS, first_error, locked_version


class Contestants(unittest.TestCase):
    def test_names_are_unique_and_the_base_is_there(self):
        names = [server.name for server in SERVERS]
        self.assertEqual(len(names), len(set(names)))
        base = next(server for server in SERVERS if server.name == BASE)
        self.assertTrue(base.blocks and base.echoes)
        self.assertTrue(any(server.ours for server in SERVERS))


class Words(unittest.TestCase):
    def test_the_error_is_found_among_warnings(self):
        text = "warning: unused\n  error[E0308]: mismatched types\nerror: aborting"
        self.assertEqual(first_error(text), "error[E0308]: mismatched types")
        self.assertEqual(first_error("\nnothing works\n"), "nothing works")
        self.assertEqual(first_error(""), "it says nothing")

    def test_of_several_locked_versions_the_wanted_one_is_ours(self):
        lock = '[[package]]\nname = "mio"\nversion = "0.8.11"\n\n'
        lock += '[[package]]\nname = "mio"\nversion = "1.2.4"\n'
        manifest = 'mio = { version = "1", optional = true }\n'
        self.assertEqual(locked_version(lock, "mio", manifest), "1.2.4")
        self.assertEqual(locked_version(lock, "absent", manifest), "unknown")


if __name__ == "__main__":
    unittest.main()
