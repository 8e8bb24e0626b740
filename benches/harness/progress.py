"""The progress bar: one line on standard error that is written over, if a person sees it."""

import sys
import time

WIDTH = 24


class Progress:
    """How far a run is, over all its cells; use it with `with`."""

    def __init__(self, seconds):
        self.whole = max(seconds, 1e-9)
        self.done = 0.0
        self.start = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.cell, self.estimate = "", 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.clear()

    def begin(self, cell, estimate):
        self.cell, self.estimate = cell, estimate
        self.show(0, "starting")

    def show(self, share_of_cell, server):
        """Draws the bar; cells count as much as their estimates."""
        if self.terminal:
            share = min(1.0, (self.done + share_of_cell * self.estimate) / self.whole)
            elapsed = time.monotonic() - self.start
            line = draw(share, elapsed, f"{self.cell}  {server}")
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    def end(self):
        self.done += self.estimate
        self.clear()
        elapsed = clock(time.monotonic() - self.start)
        print(f"benches/run: {elapsed}  {self.cell}", file=sys.stderr, flush=True)

    def clear(self):
        if self.terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def draw(share, elapsed, label):
    """The line: a bar, the share, what is left if it goes on like this, and what is going on."""
    full = round(share * WIDTH)
    left = f"{clock(elapsed / share - elapsed)} left" if share > 0.01 else "estimating"
    return f"[{'#' * full}{'.' * (WIDTH - full)}] {share:4.0%}  {left}  {label}"


def clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
