"""Servers that speak a protocol wrongly are found out."""

import socket
import threading
import unittest

from harness.cells import Cell
from harness.launch import FILE, PLAINTEXT
from harness.probes import FRAMES, Failed, check, filler, probe, unmasked

CELL = Cell("echo", 1)


def serve(talk):
    """A server that talks once for each connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run(peer):
        with peer:
            talk(peer)

    def accept():
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=run, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener, listener.getsockname()


def answer_datagrams(answer):
    """A server of datagrams, until it is closed."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))

    def run():
        while True:
            try:
                datagram, peer = server.recvfrom(1 << 16)
                server.sendto(answer(datagram), peer)
            except OSError:
                return

    threading.Thread(target=run, daemon=True).start()
    return server, server.getsockname()


def echo(peer):
    while data := peer.recv(1 << 16):
        peer.sendall(data)


def answers(*parts):
    """A talk that reads something before it says each of these."""

    def talk(peer):
        for part in parts:
            peer.recv(1 << 16)
            peer.sendall(part)
        while peer.recv(1 << 16):
            pass

    return talk


def head(extra, body=b""):
    return b"HTTP/1.1 200 OK\r\n" + extra + b"\r\n\r\n" + body


SIZED = head(b"Content-Length: 13", PLAINTEXT)
CHUNKED = head(b"Transfer-Encoding: chunked", b"%x\r\n" % len(FILE) + FILE + b"\r\n0\r\n\r\n")
AGREED = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


class Probes(unittest.TestCase):
    def ask(self, speaks, talk, cell=CELL, how=probe):
        listener, address = serve(talk)
        self.addCleanup(listener.close)
        how(speaks, address, cell)

    def refused(self, speaks, talk, why, how=probe):
        with self.assertRaisesRegex(Failed, why):
            self.ask(speaks, talk, how=how)

    def test_an_echo_of_bytes_or_of_frames_sends_back_what_it_gets(self):
        for speaks in ("echo", "proxy", "rpc"):
            self.ask(speaks, echo, how=check)
        self.refused("echo", answers(b"hellp"), "changed bytes")
        self.refused("rpc", answers(b"\0\0\0\0"), "changed bytes")
        self.refused("echo", answers(b"hello"), "changed bytes", how=check)

    def test_datagrams_come_back_whole_and_floods_are_counted(self):
        echo, flood = (Cell("datagrams", 1, what=what) for what in ("single", "flood"))
        for cell, answer, why in (
            (echo, lambda datagram: datagram, None),
            (echo, lambda datagram: datagram[:64], "of 1200 bytes"),
            (echo, lambda datagram: datagram + b"!", "of 0 bytes"),
            (flood, lambda datagram: bytes(16), None),
            (flood, lambda datagram: datagram, "of 6 bytes"),
        ):
            server, address = answer_datagrams(answer)
            with server:
                if why is None:
                    check("datagrams", address, cell)
                    continue
                with self.assertRaisesRegex(Failed, why):
                    probe("datagrams", address, cell)

    def test_http_is_read_by_its_length_or_its_chunks(self):
        self.ask("http", answers(SIZED, CHUNKED))
        self.ask("http", answers(SIZED, head(b"Content-Length: 65511", FILE)))
        self.refused("http", answers(b"HTTP/1.1 404 Not Found\r\n\r\n"), "answered /plaintext")
        self.refused("http", answers(SIZED.replace(b"World", b"world")), "changed bytes")

    def test_redis_answers_what_was_set(self):
        self.ask("redis", answers(b"+OK\r\n$5\r\nvalue\r\n"))
        self.refused("redis", answers(b"-ERR\r\n"), "changed bytes")

    def test_a_websocket_agrees_and_sends_back_unmasked(self):
        bodies = [filler(size) for size in FRAMES]
        lengths = [bytes([12]), bytes([125]), b"\x7e\0\x7e", b"\x7e\x13\x88"]
        frames = [b"\x82" + length + body for length, body in zip(lengths, bodies)]
        self.ask("websocket", answers(AGREED, *frames))
        self.refused("websocket", answers(AGREED.replace(b"101", b"200")), "made no WebSocket")
        self.refused("websocket", answers(AGREED, b"\x82\x8c"), "changed bytes")
        self.assertEqual(unmasked(unmasked(b"body", b"key!"), b"key!"), b"body")

    def test_a_sink_is_only_asked_for_a_connection(self):
        self.ask("bulk", lambda peer: None, Cell("bulk", 1, what="up"))
        self.ask("bulk", echo, Cell("bulk", 1, what="both"))

    def test_one_that_is_not_there_says_so(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
        with self.assertRaisesRegex(Failed, "did not answer a first message"):
            probe("echo", address, CELL)


if __name__ == "__main__":
    unittest.main()
