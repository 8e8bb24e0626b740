"""How much is measured: which cells, in how many windows of what length."""

from dataclasses import dataclass
from typing import Optional

from harness.cells import Cell

BLOCK_SHARES = (0, 0.1, 1, 10, 50, 100)
# A window that has as much of the one second as of the other.
SWITCH_SECONDS = 2.0
# One that sees a callback of half a second end.
BAD_SECONDS = 1.0

# What one window costs besides its time: a process, and each connection there and away.
WINDOW_OVERHEAD = 0.05
CONNECTION_OVERHEAD = 90e-6
# What an idle window costs: the memory has to settle twice.
IDLE_OVERHEAD = 1.3


@dataclass(frozen=True)
class Profile:
    """How much is measured."""

    name: str
    rotations: int
    # Memory is nearly the same every time, so a few show that.
    idle_rotations: int
    seconds: float
    warmup: float
    # After which time no further rotation begins; None for no limit.
    minutes: Optional[float]
    cells: tuple

    def window(self, cell):
        """Warm-up and measurement of a cell, in seconds; many connections take longer."""
        stretch = 1.5 if cell.connections >= 10_000 else 1
        longer = {"switch": SWITCH_SECONDS, "bad": BAD_SECONDS}
        seconds = longer.get(cell.way, self.seconds * stretch)
        if cell.kind.loader == "wrk":
            seconds = max(1.0, round(seconds))  # it knows no parts of a second
        return self.warmup * stretch * stretch, seconds

    def estimate(self, cell, servers):
        """About how many seconds a cell takes with so many servers."""
        if cell.mode == "idle":
            each = self.seconds + IDLE_OVERHEAD + cell.connections * CONNECTION_OVERHEAD
            return self.idle_rotations * servers * each
        each = sum(self.window(cell)) + WINDOW_OVERHEAD + cell.connections * CONNECTION_OVERHEAD
        return self.rotations * servers * each


def blocking(shares):
    return tuple(Cell("echo", 64, block_pct=share) for share in shares)


def dispatching():
    """What our dispatch modes are compared by, each a way in which callbacks may block."""
    shares = tuple(Cell("echo", 64, block_pct=share, way="sleep") for share in BLOCK_SHARES[1:])
    others = (("compute", 5), ("some", 50), ("switch", 10))
    return (*shares, *(Cell("echo", 64, block_pct=share, way=way) for way, share in others))


def matrix(pinned):
    """Every combination, the most telling ones first."""
    plain = Cell("echo", 64, pinned=pinned)
    rest = tuple(
        Cell("echo", connections, size, depth, pinned)
        for connections in (1, 64, 1000, 10_000)
        for depth in (1, 16)
        for size in (64, 1024, 16 << 10)
    )
    return (plain, *(cell for cell in rest if cell != plain), Cell("churn", 64, pinned=pinned))


def protocols():
    """Servers of something else than echoes, each with peers of its own."""
    return (
        Cell("http", 64, what="plaintext"),
        Cell("http", 64, depth=16, what="plaintext"),
        Cell("http", 64, what="file"),
        *(
            Cell("redis", 64, depth=depth, what=command)
            for depth in (1, 16)
            for command in ("get", "set", "incr", "lpush", "lrange", "mset")
        ),
        Cell("proxy", 64, what="churn"),
        Cell("proxy", 64, what="echo"),
        Cell("proxy", 16, 16 << 10, what="stream"),
        Cell("websocket", 64),
        Cell("websocket", 64, 1024, 16),
        Cell("rpc", 64, 1024),
        Cell("rpc", 4, 1024, 64),
        *(
            Cell("bulk", connections, 64 << 10, what=what)
            for what in ("up", "down", "both")
            for connections in (1, 16)
        ),
    )


def datagrams():
    """Echoes of datagrams that come one by one and in trains, and datagrams that are counted."""
    return (
        *(
            Cell("datagrams", flows, size, depth, what="single")
            for flows, depth in ((1, 1), (16, 1), (1, 16), (1, 64))
            for size in (64, 1200)
        ),
        *(
            Cell("datagrams", 1, size, depth, what="trains")
            for depth in (16, 64)
            for size in (64, 1200)
        ),
        *(Cell("datagrams", 1, 1200, what=what) for what in ("flood", "flood-trains")),
    )


def disturbed():
    """Connections that disturb others."""
    bad = Cell("echo", 64, block_pct=100, way="bad")
    return (bad, Cell("echo", 16, pinned=False, block_pct=100, way="hot"))


QUICK = Profile(
    "quick",
    rotations=4,
    idle_rotations=1,
    seconds=0.2,
    warmup=0.05,
    minutes=3,
    cells=(
        Cell("echo", 64),
        Cell("echo", 1000, 1024, 1),
        Cell("open", 64),
        Cell("churn", 64),
        Cell("idle", 1000),
        *blocking((0, 1, 50)),
    ),
)

SHORT = Profile(
    "short",
    rotations=9,
    idle_rotations=1,
    seconds=0.25,
    warmup=0.05,
    minutes=14,
    cells=(
        Cell("echo", 64),
        Cell("echo", 1),
        Cell("echo", 1000),
        Cell("open", 64),
        *blocking(BLOCK_SHARES),
        Cell("idle", 10_000),
        Cell("churn", 64),
        Cell("echo", 64, 16 << 10),
        Cell("echo", 64, 1024, 16),
        Cell("echo", 64, pinned=False),
    ),
)

FULL = Profile(
    "full",
    rotations=12,
    idle_rotations=3,
    seconds=0.5,
    warmup=0.12,
    minutes=None,
    cells=(
        *matrix(pinned=True),
        Cell("open", 64),
        Cell("open", 1000, 1024),
        *blocking(BLOCK_SHARES),
        *dispatching(),
        Cell("idle", 10_000),
        *protocols(),
        *datagrams(),
        *disturbed(),
        Cell("ten", 64),
        *matrix(pinned=False),
    ),
)

# What the first page shows, and what no run had before: in a quarter of an hour.
HEADLINE = Profile(
    "headline",
    rotations=6,
    idle_rotations=1,
    seconds=0.3,
    warmup=0.06,
    minutes=15,
    cells=(
        Cell("echo", 64),
        *blocking((0.1, 1, 10, 50)),
        Cell("datagrams", 1, 1200, 64, what="single"),
        *(c for c in protocols() if c.mode != "redis" or c.what in ("get", "set")),
        *disturbed(),
        Cell("open", 64),
        Cell("churn", 64),
        Cell("ten", 64),
        Cell("echo", 64, pinned=False),
    ),
)

# Datagrams, cell by cell as they are asked for.
DATAGRAMS = Profile(
    "datagrams", rotations=9, idle_rotations=1, seconds=0.2, warmup=0.05, minutes=6,
    cells=datagrams(),
)  # fmt: skip

PROFILES = {profile.name: profile for profile in (QUICK, SHORT, HEADLINE, DATAGRAMS, FULL)}
