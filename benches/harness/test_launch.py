"""What is typed for each server, and what stands in the files that they read."""

import tempfile
import unittest
from pathlib import Path

from harness.cells import Cell
from harness.launch import FILE, Place, launch
from harness.servers import SERVERS

SPEAKS = {
    "bulk": Cell("bulk", 1, what="down"),
    "http": Cell("http", 1, what="file"),
    "datagrams": Cell("datagrams", 1, what="flood"),
    "proxy": Cell("proxy", 1, what="echo"),
}


class Launches(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.place = Place(Path(directory.name), "127.0.0.1:9")

    def launch(self, name):
        server = next(server for server in SERVERS if server.name == name)
        return launch(server, "/bin/x", 1, SPEAKS.get(server.speaks, Cell("echo", 1)), self.place)

    def test_a_peer_is_told_what_its_protocol_needs(self):
        self.assertEqual(self.launch("mio").command, ["/bin/x", "0", "1"])
        self.assertIn("source", self.launch("tokio bulk").command)
        self.assertEqual(self.launch("netpoll udp").command[-2:], ["--serve", "sink"])
        self.assertEqual(self.launch("tokio proxy").command[-2:], ["--origin", "127.0.0.1:9"])
        files = Path(self.launch("hyper").command[-1])
        self.assertEqual((files / "file").read_bytes(), FILE)

    def test_an_example_is_started_as_its_head_says(self):
        command = self.launch("netpoll proxy").command
        self.assertEqual(command, ["/bin/x", "127.0.0.1:9", "127.0.0.1:0"])
        self.assertEqual(self.launch("netpoll redis").command, ["/bin/x", "127.0.0.1:0"])

    def test_those_with_a_file_listen_where_it_says(self):
        for name, file, address in (
            ("nginx", "nginx.conf", "listen {}:{}"),
            ("nginx stream", "nginx.conf", "listen {}:{}"),
            ("haproxy", "haproxy.cfg", "bind {}:{}"),
        ):
            started = self.launch(name)
            text = (self.place.scratch / file).read_text()
            self.assertIn(address.format(*started.address), text)
            self.assertEqual("127.0.0.1:9" in text, name != "nginx")
        started = self.launch("redis-server")
        self.assertIn(str(started.address[1]), started.command)


if __name__ == "__main__":
    unittest.main()
