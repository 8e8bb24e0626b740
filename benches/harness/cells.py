"""What is measured: a cell is one thing that is asked of every server which can do it."""

from dataclasses import dataclass
from typing import Optional

from harness.servers import (
    BASE,
    HAPROXY,
    NGINX,
    REDIS,
    TOKIO_BULK,
    TOKIO_RPC,
    TOKIO_UDP,
    TUNGSTENITE,
)

# What a request that blocks sleeps for, in microseconds, and what one that computes takes.
BLOCK_US = 1000
COMPUTE_US = 2000
BAD_US = 500_000
HOT_US = 20

# In what ways requests block where dispatch modes are compared, for people.
WAYS = {
    "sleep": "block 1 ms",
    "compute": "compute 2 ms",
    "some": "block 1 ms, on one connection in eight",
    "switch": "block 1 ms, in every second second",
}
# How long a request takes that has a way of its own.
MICROS = {"compute": COMPUTE_US, "bad": BAD_US, "hot": HOT_US}

# What a cell of several directions or exchanges is, for people.
BULK = {"up": "upload", "down": "download", "both": "stream there and back"}
DATAGRAMS = {
    "single": "datagrams of {} × {}",
    "trains": "datagrams of {} × {} in trains",
    "flood": "flood of {}",
    "flood-trains": "flood of {} in trains",
}
PROXIED = {
    "echo": "{} × 1",
    "churn": "connect, {}, close",
    "stream": "stream of {}",
}

# More bytes than this on the way at once are beyond what kernels give to TCP by default.
ON_THE_WAY_MAX = 1 << 30


@dataclass(frozen=True)
class Mode:
    """A kind of cell."""

    # What its servers speak.
    speaks: str = "echo"
    # What the others are divided by.
    base: str = BASE
    # Which program loads them, and how it is told to, where it is `benches/load`.
    loader: str = "load"
    load_mode: str = "echo"
    # What a message is called.
    unit: str = "requests"
    # Whether messages may be many on the way at a time.
    deep: bool = False


MODES = {
    "echo": Mode(deep=True),
    "open": Mode(),
    "churn": Mode(load_mode="churn", unit="connections"),
    "ten": Mode(load_mode="churn"),
    "idle": Mode(load_mode="idle"),
    "bulk": Mode("bulk", TOKIO_BULK, load_mode=None, unit="messages"),
    "rpc": Mode("rpc", TOKIO_RPC, load_mode="rpc", deep=True),
    "websocket": Mode("websocket", TUNGSTENITE, load_mode="websocket", unit="messages", deep=True),
    "datagrams": Mode("datagrams", TOKIO_UDP, load_mode=None, unit="datagrams", deep=True),
    "http": Mode("http", NGINX, loader="wrk", deep=True),
    "redis": Mode("redis", REDIS, loader="redis-benchmark", unit="commands", deep=True),
    "proxy": Mode("proxy", HAPROXY, load_mode=None),
}
# Of the modes in which it is not one for all.
LOAD_MODES = {"up": "up", "down": "down", "both": "stream"}
LOAD_MODES |= {"echo": "echo", "churn": "churn", "stream": "stream"}
LOAD_MODES |= {"single": "udp", "trains": "udp", "flood": "udp-flood", "flood-trains": "udp-flood"}
UNITS = {"churn": "connections", "stream": "messages"}
# How many messages a connection of the mode `ten` has, and which connections of the way `hot` are.
TEN = 10
EVERY = 2


@dataclass(frozen=True)
class Cell:
    """One thing that is asked of every server."""

    mode: str  # one of MODES
    connections: int
    size: int = 64
    depth: int = 1
    # Server on core 0 and load on core 1, or both wherever the kernel puts them.
    pinned: bool = True
    # The share of requests that block, in percent; None where that is not the question.
    block_pct: Optional[float] = None
    # In which way, where it is not the usual one.
    way: Optional[str] = None
    # Of a mode with several: a page, a command, a direction.
    what: Optional[str] = None

    @property
    def kind(self):
        return MODES[self.mode]

    @property
    def base(self):
        """The server that the others are divided by."""
        return "tokio" if self.way == "hot" else self.kind.base

    @property
    def load_mode(self):
        return self.kind.load_mode or LOAD_MODES[self.what]

    @property
    def unit(self):
        return UNITS.get(self.what, self.kind.unit)

    @property
    def in_trains(self):
        """Whether datagrams that go at the same time are one packet of the load generator."""
        return self.mode == "datagrams" and self.what.endswith("trains")

    @property
    def compares_modes(self):
        """Whether it is about our dispatch modes alone."""
        return self.way in WAYS

    @property
    def key(self):
        """Its name in data, on the command line and in file names."""
        words = [self.mode, *([self.what] if self.what else []), f"c{self.connections}"]
        if self.mode != "idle":
            words.append(f"s{self.size}")
        if self.kind.deep:
            words.append(f"d{self.depth}")
        if self.block_pct is not None:
            words.append(f"b{self.block_pct:g}")
        if self.way is not None:
            words.append(self.way)
        words.append("pinned" if self.pinned else "free")
        return "-".join(words)

    @property
    def title(self):
        """Its name for people."""
        what = {
            "echo": f"{size_text(self.size)} × {self.depth}",
            "open": f"{size_text(self.size)}, open loop",
            "churn": "connect, one message, close",
            "ten": f"connect, {TEN} messages, close",
            "idle": "idle",
            "rpc": f"RPC, {size_text(self.size)} × {self.depth}",
            "websocket": f"WebSocket, {size_text(self.size)} × {self.depth}",
            "bulk": f"{BULK.get(self.what)}, {size_text(self.size)} a write",
            "datagrams": DATAGRAMS.get(self.what, "").format(size_text(self.size), self.depth),
            "http": f"HTTP, {self.what} × {self.depth}",
            "redis": f"Redis, {(self.what or '').upper()} × {self.depth}",
            "proxy": f"proxy, {PROXIED.get(self.what, '').format(size_text(self.size))}",
        }[self.mode]
        plural = "s" if self.connections > 1 else ""
        noun = "flow" if self.mode == "datagrams" else "connection"
        title = f"{thousands(self.connections)} {noun}{plural}, {what}"
        if self.way == "bad":
            return f"{title}, one of them blocks {BAD_US // 1000} ms each time"
        if self.way == "hot":
            return f"{title}, one in {EVERY} hot: {HOT_US} µs of work, all on one loop"
        if self.block_pct is not None:
            title += f", {self.block_pct:g} % {WAYS[self.way or 'sleep']}"
        if self.way is not None:
            title += ", our modes"
        return title

    @property
    def place(self):
        """Its name with where its processes run, where that is not the usual."""
        return self.title + ("" if self.pinned else ", not pinned")

    @property
    def block_options(self):
        """The options of a server for requests that block."""
        if self.block_pct is None:
            return []
        micros = MICROS.get(self.way, BLOCK_US)
        options = ["--block-us", str(micros), "--block-pct", f"{self.block_pct:g}"]
        return options + (["--block-way", self.way] if self.way else [])

    def admits(self, server):
        """Whether a server takes part."""
        if server.speaks != self.kind.speaks:
            return False
        if self.compares_modes:
            return server.dispatches
        if self.way == "hot":
            return server.hot
        if self.block_pct is not None:
            return server.blocks
        return server.idles if self.mode == "idle" else server.echoes

    def too_much(self, descriptors):
        """Why this machine can't do it, or None."""
        if self.connections + 100 > descriptors:
            return f"a process may have {descriptors} descriptors (`ulimit -Hn`)"
        waiting = self.connections * self.size * self.depth
        if waiting > ON_THE_WAY_MAX:
            return (
                f"{waiting >> 20} MiB would be on the way at once, and the harness stops at 1 GiB"
            )
        return None


def size_text(size):
    whole = size >= 1024 and size % 1024 == 0
    return f"{size >> 10} KiB" if whole else f"{thousands(size)} B"


def thousands(number):
    return f"{number:,}".replace(",", " ")
