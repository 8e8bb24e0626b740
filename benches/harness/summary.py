"""Medians, quartiles, and ratios within rotations: the only arithmetic that the report rests on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The middle of some values, the quartiles around it, and how many values there were."""

    median: float
    low: float
    high: float
    count: int


def quantile(values, q):
    """The q-quantile, interpolated between the two nearest values (Hyndman and Fan's type 7)."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("there is no quantile of nothing")
    place = (len(ordered) - 1) * q
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def spread(values):
    """The spread of what there is; None of nothing. A missing value is None, and left out."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    low, median, high = (quantile(present, q) for q in (0.25, 0.5, 0.75))
    return Spread(median, low, high, len(present))


def ratios(values, base):
    """values[rotation] / base[rotation], for the rotations that both have.

    Only windows of one rotation are divided: they lie seconds apart, so a machine that drifts
    between rotations drifts for both.
    """
    shared = [rotation for rotation in values if base.get(rotation)]
    return [
        values[rotation] / base[rotation] for rotation in shared if values[rotation] is not None
    ]


def verdict(ratio):
    """Whether a spread of ratios is above one, below, or neither: its quartiles must agree."""
    if ratio is None:
        return "unknown"
    if ratio.low > 1:
        return "above"
    if ratio.high < 1:
        return "below"
    return "level"


def at_quantile(curve, q):
    """The value at q of a curve of [quantile, value] pairs that rises in both; None beyond it."""
    earlier = None
    for place, value in curve:
        if place >= q:
            if earlier is None or place == q:
                return value
            before, least = earlier
            return least + (value - least) * (q - before) / (place - before)
        earlier = (place, value)
    return None


def middle_curve(curves, quantiles):
    """For each quantile that most of the curves reach, the median of what they say there."""
    middle = []
    for q in quantiles:
        values = [value for curve in curves if (value := at_quantile(curve, q)) is not None]
        if values and 2 * len(values) > len(curves):
            middle.append((q, quantile(values, 0.5)))
    return middle
