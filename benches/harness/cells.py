"""What is measured: cells, and the profiles that choose among them."""

from dataclasses import dataclass
from typing import Optional

# What a request that blocks sleeps for, in microseconds, and what one that computes takes.
BLOCK_US = 1000
COMPUTE_US = 2000
BLOCK_SHARES = (0, 0.1, 1, 10, 50, 100)

# In what ways requests block where dispatch modes are compared, for people.
WAYS = {
    "sleep": "block 1 ms",
    "compute": "compute 2 ms",
    "some": "block 1 ms, on one connection in eight",
    "switch": "block 1 ms, in every second second",
}
# A window that has as much of the one second as of the other.
SWITCH_SECONDS = 2.0

# More bytes than this on the way at once are beyond what kernels give to TCP by default.
ON_THE_WAY_MAX = 1 << 30

# What one window costs besides its time: a process, and each connection there and away.
WINDOW_OVERHEAD = 0.05
CONNECTION_OVERHEAD = 90e-6
# What an idle window costs: the memory has to settle twice.
IDLE_OVERHEAD = 1.3


@dataclass(frozen=True)
class Cell:
    """One thing that is asked of every server."""

    mode: str  # "echo", "open", "churn" or "idle"
    connections: int
    size: int = 64
    depth: int = 1
    # Server on core 0 and load on core 1, or both wherever the kernel puts them.
    pinned: bool = True
    # The share of requests that block, in percent; None where that is not the question.
    block_pct: Optional[float] = None
    # In which way, where the question is how our dispatch modes compare; None where it is not.
    way: Optional[str] = None

    @property
    def key(self):
        """Its name in data, on the command line and in file names."""
        words = [self.mode, f"c{self.connections}"]
        if self.mode != "idle":
            words.append(f"s{self.size}")
        if self.mode == "echo":
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
            "idle": "idle",
        }[self.mode]
        title = f"{thousands(self.connections)} connections, {what}"
        if self.block_pct is not None:
            title += f", {self.block_pct:g} % {WAYS[self.way or 'sleep']}"
        if self.way is not None:
            title += ", our modes"
        return title

    @property
    def block_options(self):
        """The options of a server for requests that block."""
        if self.block_pct is None:
            return []
        micros = COMPUTE_US if self.way == "compute" else BLOCK_US
        options = ["--block-us", str(micros), "--block-pct", f"{self.block_pct:g}"]
        return options + (["--block-way", self.way] if self.way else [])

    def admits(self, server):
        """Whether a server takes part."""
        if self.way is not None:
            return server.dispatches
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
        seconds = SWITCH_SECONDS if cell.way == "switch" else self.seconds * stretch
        return self.warmup * stretch * stretch, seconds

    def estimate(self, cell, servers):
        """About how many seconds a cell takes with so many servers."""
        if cell.mode == "idle":
            each = self.seconds + IDLE_OVERHEAD + cell.connections * CONNECTION_OVERHEAD
            return self.idle_rotations * servers * each
        each = sum(self.window(cell)) + WINDOW_OVERHEAD + cell.connections * CONNECTION_OVERHEAD
        return self.rotations * servers * each


def size_text(size):
    return f"{size >> 10} KiB" if size >= 1024 else f"{size} B"


def thousands(number):
    return f"{number:,}".replace(",", " ")


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


QUICK = Profile(
    "quick",
    rotations=4,
    idle_rotations=1,
    seconds=0.24,
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
    minutes=12,
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
        *matrix(pinned=False),
    ),
)
