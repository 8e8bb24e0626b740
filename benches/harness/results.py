"""A cell's windows, as values by server and rotation, and what the report asks of them."""

from harness.cells import Cell
from harness.servers import BASE, HAND_OFF, UDP_ALL, UDP_BATCH, UDP_ONE
from harness.summary import ratios, spread

# Hand-written loops: what could be reached, and no frameworks.
LIMITS = (
    BASE, "raw io_uring", "raw epoll, frames not read", UDP_ALL, UDP_ONE, UDP_BATCH,
)  # fmt: skip

# How each value is read from the load generator's report; time is in microseconds.
METRICS = {
    "rate": lambda report: report["requests_per_second"],
    "cpu": lambda report: report["server"]["cpu_seconds_per_million"],
    "megabytes": lambda report: report["megabytes_per_second"],
    "p50": lambda report: report["latency_ns"]["p50"] / 1e3,
    "p99": lambda report: report["latency_ns"]["p99"] / 1e3,
    "p99.9": lambda report: report["latency_ns"]["p99.9"] / 1e3,
    "server_busy": lambda report: report["server"]["cpu_seconds"] / report["seconds"],
    "load_busy": lambda report: report["load_cpu_seconds"] / report["seconds"],
    "lost": lambda report: report["lost"] / (report["lost"] + report["requests"]),
    "connected": lambda report: report["server"]["rss_each_connected"],
    "answered": lambda report: report["server"]["rss_each_answered"],
    "silent": lambda report: report["server"]["rss_each_silent"],
}


class CellResult:
    """What one cell gave."""

    def __init__(self, raw, servers, processor=None):
        self.processor = processor
        self.cell = Cell(**raw["cell"])
        self.base = self.cell.base
        self.run = raw["run"]
        self.rate = raw["rate"]
        self.absent = raw["absent"]
        self.windows = raw["windows"]
        names = {window["server"] for window in self.windows}
        self.names = [server["name"] for server in servers if server["name"] in names]
        self.ours = [s["name"] for s in servers if s["ours"] and s["name"] in names]
        self.peers = [n for n in self.names if n not in self.ours and n not in LIMITS]
        usual = [name for name in self.ours if name == f"netpoll {HAND_OFF}"]
        # What a user gets that chooses nothing.
        self.usual = (usual or self.ours or [None])[0]

    def values(self, name, metric):
        """By rotation; None where the window failed or has no such value."""
        mine = (window for window in self.windows if window["server"] == name)
        return {window["rotation"]: read(window, metric) for window in mine}

    def spread(self, name, metric):
        """The spread of a value over the rotations, or None."""
        return spread(self.values(name, metric).values())

    def ratio(self, name, base, metric):
        """The spread of the ratios to another server, each within a rotation, or None."""
        return spread(ratios(self.values(name, metric), self.values(base, metric)))

    def best_peer(self, metric, highest):
        """The peer with the best median, or None."""
        medians = {
            name: found.median for name in self.peers if (found := self.spread(name, metric))
        }
        if not medians:
            return None
        return (max if highest else min)(medians, key=medians.get)

    def lead(self):
        """The metric that the cell is about."""
        return {"open": "p99", "idle": "answered"}.get(self.cell.mode, "rate")

    def best_ours(self):
        """The one of our modes with the best median of what the cell is about, or None."""
        sign = 1 if self.lead() == "rate" else -1
        found = {n: sign * s.median for n in self.ours if (s := self.spread(n, self.lead()))}
        return max(found, key=found.get) if found else None

    def failures(self):
        """The windows that gave no number, or with a note."""
        return [window for window in self.windows if "failed" in window or "note" in window]

    def disturbance(self):
        """The spread of the share of all CPUs that others used, and the highest; or None."""
        shares = [window["others_cpu"] for window in self.windows if "others_cpu" in window]
        return (spread(shares), max(shares)) if shares else None

    def load_is_the_limit(self):
        """Whether the load generator was busier than the fastest server that it loaded."""
        names = [name for name in self.names if self.spread(name, "load_busy")]
        if self.cell.mode in ("idle", "open") or not names:
            return False
        fastest = max(names, key=lambda name: self.spread(name, "rate").median)
        load, server = (self.spread(fastest, m).median for m in ("load_busy", "server_busy"))
        return load > 0.95 and load > server


def read(window, metric):
    """One value of a window, or None."""
    if "failed" in window:
        return None
    try:
        return METRICS[metric](window["report"])
    except (KeyError, TypeError, ZeroDivisionError):
        return None
