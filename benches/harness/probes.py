"""Whether a server does what it is measured by: a few exchanges, compared byte by byte."""

import random
import socket
import threading

from harness.launch import FILE, PLAINTEXT

# How long a server may take to answer.
TIMEOUT = 10
# Bytes that a check sends, in pieces of odd sizes.
CHECK_BYTES = 1 << 20
# Payloads of frames: with each length of a length, and with none of its own.
FRAMES = (12, 125, 126, 5000)
# Sizes of datagrams.
DATAGRAMS = (0, 1, 64, 1200, 9000, 0, 64)


class Failed(Exception):
    """Why a window, or a server, gave no number."""


def probe(speaks, address, cell):
    """A little of its protocol, there and back."""
    try:
        if speaks == "datagrams":
            return datagrams(address, cell)
        with socket.create_connection(address, timeout=TIMEOUT) as peer:
            if speaks != "bulk" or cell.what == "both":
                PROBES[speaks](peer)
    except OSError as error:
        raise Failed(f"it did not answer a first message: {error}") from None


def check(speaks, address, cell):
    """The same, and a megabyte where a server sends back what it gets."""
    probe(speaks, address, cell)
    if speaks not in ("echo", "proxy"):
        return
    try:
        with socket.create_connection(address, timeout=TIMEOUT) as peer:
            sent = random.Random(CHECK_BYTES).randbytes(CHECK_BYTES)
            writer = threading.Thread(target=send_in_pieces, args=(peer, sent), daemon=True)
            writer.start()
            expect(peer, sent)
            writer.join()
    except OSError as error:
        raise Failed(f"the check of its echo ended: {error}") from None


def echo(peer):
    peer.sendall(b"hello")
    expect(peer, b"hello")


def rpc(peer):
    frames = [len(body).to_bytes(4, "big") + body for body in map(filler, FRAMES)]
    peer.sendall(b"".join(frames))
    expect(peer, b"".join(frames))


def websocket(peer):
    peer.sendall(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    head = read_head(peer)
    if b" 101 " not in head or b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" not in head:
        raise Failed(f"it made no WebSocket: {head[:80]!r}")
    for body in map(filler, FRAMES):
        small = len(body) < 126
        length = bytes([len(body)]) if small else b"\x7e" + len(body).to_bytes(2, "big")
        masked = bytes([length[0] | 0x80]) + length[1:]
        peer.sendall(b"\x82" + masked + b"mask" + unmasked(body, b"mask"))
        expect(peer, b"\x82" + length + body)


def datagrams(address, cell):
    """Datagrams of several sizes and none, there and back, or how many a server has counted."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(TIMEOUT)
        peer.connect(address)
        counts = cell.load_mode == "udp-flood"
        for body in (b"count?",) if counts else map(filler, DATAGRAMS):
            peer.send(body)
            answer = peer.recv(1 << 16)
            if len(answer) != 16 if counts else answer != body:
                raise Failed(f"it answered a datagram of {len(body)} bytes with {answer[:80]!r}")


def http(peer):
    for path, body in ((b"/plaintext", PLAINTEXT), (b"/file", FILE)):
        peer.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = read_head(peer)
        if not head.startswith(b"HTTP/1.1 200"):
            raise Failed(f"it answered {path.decode()} with {head[:80]!r}")
        if b"transfer-encoding: chunked" in head.lower():
            compare(read_chunks(peer), body)
        else:
            expect(peer, body)


def redis(peer):
    peer.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")
    expect(peer, b"+OK\r\n$5\r\nvalue\r\n")


PROBES = {
    "bulk": echo,
    "echo": echo,
    "http": http,
    "proxy": echo,
    "redis": redis,
    "rpc": rpc,
    "websocket": websocket,
}


def filler(size):
    return random.Random(size).randbytes(size)


def unmasked(body, key):
    return bytes(byte ^ key[index % len(key)] for index, byte in enumerate(body))


def read_head(peer):
    """The head of an answer; byte by byte, so that nothing is taken of what follows."""
    head = b""
    while not head.endswith(b"\r\n\r\n") and len(head) < 1 << 14:
        head += read_exactly(peer, 1)
    return head


def read_chunks(peer):
    body = b""
    while True:
        line = b""
        while not line.endswith(b"\r\n"):
            line += read_exactly(peer, 1)
        size = int(line.split(b";")[0], 16)
        body += read_exactly(peer, size)
        read_exactly(peer, 2)
        if size == 0:
            return body


def read_exactly(peer, size):
    data = b""
    while len(data) < size:
        more = peer.recv(size - len(data))
        if not more:
            raise Failed(f"it closed after {len(data)} of {size} bytes")
        data += more
    return data


def expect(peer, sent):
    """Reads what was sent, and compares as it comes."""
    received = 0
    while received < len(sent):
        data = peer.recv(1 << 16)
        if not data:
            raise Failed(f"it closed after {received} of {len(sent)} bytes")
        compare(data, sent[received : received + len(data)], received)
        received += len(data)


def compare(data, sent, before=0):
    if data != sent:
        raise Failed(f"it changed bytes after {before}")


def send_in_pieces(peer, data):
    sizes, at = random.Random(7), 0
    while at < len(data):
        size = sizes.choice((1, 63, 1000, 16_385, 70_001))
        try:
            peer.sendall(data[at : at + size])
        except OSError:
            return  # the reader says what is wrong
        at += size
