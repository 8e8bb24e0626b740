"""What servers and the load generator say, and servers that go wrong."""

import os
import sys
import tempfile
import unittest
from pathlib import Path

from harness.arena import Arena, Running, check, parse_address
from harness.cells import Cell
from harness.probes import Failed
from harness.servers import Server

CELL = Cell("echo", 1, pinned=False)

ECHO = """#!{python}
import socket, threading
def serve(peer):
    while data := peer.recv(65536):
        peer.sendall({answer})
listener = socket.create_server(("127.0.0.1", 0))
print("listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


class Programs(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def program(self, name, text):
        path = self.directory / name
        path.write_text(text.replace("{python}", sys.executable))
        path.chmod(0o755)
        return path

    def test_an_echo_passes_and_a_changed_byte_does_not(self):
        server = Server("a server", "x")
        check(server, self.program("good", ECHO.replace("{answer}", "data")), CELL)
        wrong = self.program("bad", ECHO.replace("{answer}", "data[:-1] + b'?'"))
        with self.assertRaisesRegex(Failed, "changed bytes"):
            check(server, wrong, CELL)

    def test_one_that_forwards_gets_an_origin_that_ends_with_the_arena(self):
        # It says what it was told, where others say where they listen.
        told = "#!/bin/sh\necho listening on $4\nexec sleep 60\n"
        server = Server("a proxy", "x", speaks="proxy")
        path = self.program("proxy", told)
        origin = self.program("origin", ECHO.replace("{answer}", "data"))
        cell = Cell("proxy", 1, what="echo", pinned=False)
        with Arena(cell, {server: path}, None, origin) as arena:
            self.assertEqual(arena.absent, {})
            running = arena.running[server]
            self.assertEqual("{}:{}".format(*running.address), running.place.origin)
            pid, scratch = running.origin.pid, running.place.scratch
            self.assertTrue(scratch.exists())
        self.assertFalse(scratch.exists())
        with self.assertRaises(ProcessLookupError):
            os.kill(pid, 0)

    def test_a_server_that_does_not_start_is_named_with_the_reason(self):
        broken = Server("broken", "x")
        path = self.program("broken", "#!/bin/sh\nexit 3\n")
        with Arena(CELL, {broken: path}, None) as arena:
            self.assertEqual(arena.running, {})
            self.assertIn("before it listened", arena.absent[broken])

    def test_one_that_says_more_than_a_pipe_holds_is_not_stopped_by_that(self):
        talkative = ECHO.replace("while True:", "print('x' * (1 << 20), flush=True)\nwhile True:")
        path = self.program("talkative", talkative.replace("{answer}", "data"))
        running = Running(Server("talkative", "x"), path, CELL, 1)
        self.addCleanup(running.kill)
        self.assertEqual((running.place.scratch / "said").stat().st_size >> 20, 1)

    def test_a_server_that_died_fails_its_window_and_is_replaced(self):
        server = Server("mortal", "x")
        path = self.program("mortal", ECHO.replace("{answer}", "data"))
        with Arena(CELL, {server: path}, Path("/nonexistent")) as arena:
            first = arena.running[server]
            first.process.kill()
            first.process.wait()
            record = arena.window(server, 0, 0.1)
            self.assertIn("has ended with status -9", record["failed"])
            self.assertIsNot(arena.running[server], first)
            self.assertIsNone(arena.running[server].process.poll())

    def test_nothing_is_left_behind(self):
        server = Server("left", "x")
        path = self.program("left", ECHO.replace("{answer}", "data"))
        with Arena(CELL, {server: path}, None) as arena:
            pid = arena.running[server].pid
        with self.assertRaises(ProcessLookupError):
            os.kill(pid, 0)

    def test_a_rotation_has_everyone_once_and_is_the_same_every_time(self):
        arena = Arena(CELL, {}, None)
        arena.running = {Server(name, "x"): None for name in "abcdef"}
        first, second = arena.order(0), arena.order(1)
        self.assertEqual(sorted(s.name for s in first), list("abcdef"))
        self.assertNotEqual(first, second)
        self.assertEqual(first, arena.order(0))

    def test_blocking_and_threads_are_asked_for(self):
        server = Server("a server", "x", ("--option", "value"))
        path = self.program("args", ECHO.replace("{answer}", "data"))
        free = Running(server, path, Cell("echo", 1, pinned=False, block_pct=0.1), 8)
        self.addCleanup(free.kill)
        wanted = "0 8 --option value --block-us 1000 --block-pct 0.1".split()
        self.assertEqual(free.command[1:], wanted)
        pinned = Running(server, path, Cell("echo", 1), 8)
        self.addCleanup(pinned.kill)
        self.assertEqual(pinned.command[1:], "0 1 --option value".split())


class Words(unittest.TestCase):
    def test_an_address_is_found(self):
        self.assertEqual(parse_address("listening on 127.0.0.1:80\nmore\n"), ("127.0.0.1", 80))
        for wrong in ("hello\n", "listening on nowhere\n", "\n"):
            with self.assertRaises(Failed):
                parse_address(wrong)


if __name__ == "__main__":
    unittest.main()
