"""Which programs are built, and what is read from compilers and lock files."""

import os
import tempfile
import unittest
from pathlib import Path

from harness.builds import (
    EXAMPLES, PACKAGED, Skipped, first_error, installed, is_fresh, is_ours, locked_version, path_of,
)  # fmt: skip
from harness.launch import LAUNCHES
from harness.servers import BASE, SERVERS


class Contestants(unittest.TestCase):
    def test_names_are_unique_and_the_base_is_there(self):
        names = [server.name for server in SERVERS]
        self.assertEqual(len(names), len(set(names)))
        base = next(server for server in SERVERS if server.name == BASE)
        self.assertTrue(base.blocks and base.echoes)
        self.assertTrue(any(server.ours for server in SERVERS))
        self.assertLessEqual({server.launch for server in SERVERS}, set(LAUNCHES))

    def test_ours_are_known_by_their_programs(self):
        for server in SERVERS:
            self.assertEqual(server.ours, is_ours(server.program), server.name)


class Freshness(unittest.TestCase):
    def test_a_program_is_fresh_until_a_source_is_newer(self):
        with tempfile.TemporaryDirectory() as directory:
            program, sources = Path(directory) / "program", Path(directory) / "src"
            self.assertFalse(is_fresh(program, ()))
            sources.mkdir()
            for file in (sources / "a", program):
                file.touch()
            os.utime(sources / "a", (100, 100))
            os.utime(program, (200, 200))
            self.assertTrue(is_fresh(program, (sources,)))
            os.utime(sources / "a", (300, 300))
            self.assertFalse(is_fresh(program, (sources,)))
            self.assertFalse(is_fresh(program, (sources / "a",)))

    def test_programs_of_the_system_are_found_or_named_with_their_package(self):
        self.assertTrue(installed("sh", "dash").exists())
        with self.assertRaisesRegex(Skipped, "is the package a-package installed"):
            installed("no-such-program", "a-package")
        self.assertFalse(EXAMPLES & set(PACKAGED))

    def test_another_tokio_is_another_file(self):
        self.assertNotEqual(path_of("tokio_echo"), path_of("tokio_echo unstable"))
        self.assertEqual(path_of("tokio_echo unstable").name, "tokio_echo")
        self.assertEqual(path_of("http").parent.name, "examples")


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
