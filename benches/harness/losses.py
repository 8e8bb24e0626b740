"""Where a peer is better than we are."""

import math
from dataclasses import dataclass

from harness.summary import Spread, verdict

# What may be lost, whether more of it is better, and its name.
CONTESTED = {
    "rate": (True, "requests per second"),
    "cpu": (False, "CPU time per request"),
    "p99": (False, "p99 latency"),
    "connected": (False, "memory, connected"),
    "answered": (False, "memory after one message"),
}
CONTESTED_IN = {"open": ("p99", "cpu"), "idle": ("connected", "answered")}
USUALLY = ("rate", "cpu", "p99")


@dataclass(frozen=True)
class Loss:
    """A peer that is better than one of our modes by both quartiles of the ratio to it."""

    result: object
    metric: str
    ours: str
    peer: str
    ratio: Spread

    @property
    def depth(self):
        """How much better it is, for comparing."""
        return abs(math.log(self.ratio.median)) if self.ratio.median > 0 else math.inf


def losses(result, ours):
    """All of one cell and one of our modes."""
    found = []
    for metric in CONTESTED_IN.get(result.cell.mode, USUALLY) if ours else ():
        more_is_better = CONTESTED[metric][0]
        for peer in result.peers:
            ratio = result.ratio(ours, peer, metric)
            if verdict(ratio) == ("below" if more_is_better else "above"):
                found.append(Loss(result, metric, ours, peer, ratio))
    return found


def worst(results, metric):
    """Of each cell what our usual mode loses most by, the deepest first, and how many cells can
    be lost."""
    open_to_it = [
        result
        for result in results
        if result.usual
        and not result.cell.compares_modes
        and metric in CONTESTED_IN.get(result.cell.mode, USUALLY)
        and any(result.ratio(result.usual, peer, metric) for peer in result.peers)
    ]
    found = []
    for result in open_to_it:
        mine = [loss for loss in losses(result, result.usual) if loss.metric == metric]
        if mine:
            found.append(max(mine, key=lambda loss: loss.depth))
    return sorted(found, key=lambda loss: -loss.depth), len(open_to_it)
