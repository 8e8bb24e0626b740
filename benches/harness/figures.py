"""Which pictures the report has, and what is in them."""

from harness.cells import thousands
from harness.plots import LIMITS as LIMIT_COLOURS
from harness.plots import OURS, PEERS, bars, lines
from harness.results import LIMITS
from harness.servers import BASE
from harness.summary import middle_curve

# Where the curves of latency are read; the axis stretches towards 1.
QUANTILES = (0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999)
PANELS_MAX = 6


def draw(results):
    """Every picture: its file name, what it shows, and the SVG."""
    colours = choose_colours(results)
    pictures = {}
    for name, placement, chosen in ratio_groups(results):
        caption = f"Requests per second over those of {BASE}, {placement}"
        panels = [panel(result, colours) for result in chosen]
        pictures[name] = (caption, bars(caption, "median, quartiles", panels))
    for result in results:
        if result.cell.mode == "open":
            rate = thousands(result.rate)
            caption = f"Latency at {rate} requests per second, {result.cell.title}"
            svg = latency(result, colours, caption)
            pictures[f"latency-{result.cell.key}.svg"] = (caption, svg)
        if result.cell.mode == "idle":
            caption = f"Memory per connection, {result.cell.title}"
            svg = memory(result, colours, caption)
            pictures[f"memory-{result.cell.key}.svg"] = (caption, svg)
    blocked = (result for result in results if result.cell.block_pct is not None)
    shares = [result for result in blocked if result.cell.way is None]
    if shares:
        caption = "Requests per second over the share of requests that block for 1 ms"
        pictures["blocking.svg"] = (caption, blocking(shares, colours, caption))
    return pictures


def choose_colours(results):
    """One colour for each server, the same in every picture."""
    names = list(dict.fromkeys(name for result in results for name in result.names))
    ours = list(dict.fromkeys(name for result in results for name in result.ours))
    colours = dict(zip(LIMITS, LIMIT_COLOURS))
    colours |= {name: OURS[i % len(OURS)] for i, name in enumerate(ours)}
    peers = [name for name in names if name not in colours]
    return colours | {name: PEERS[i % len(PEERS)] for i, name in enumerate(peers)}


def ratio_groups(results):
    """The pictures of ratios: placement and cells, a few panels each."""
    for pinned, placement in ((True, "pinned"), (False, "not pinned")):
        chosen = [
            result
            for result in results
            if result.cell.mode in ("echo", "churn")
            and result.cell.block_pct is None
            and result.cell.pinned == pinned
        ]
        for first in range(0, len(chosen), PANELS_MAX):
            number = first // PANELS_MAX + 1
            name = f"requests-{placement.replace(' ', '-')}-{number}.svg"
            yield name, placement, chosen[first : first + PANELS_MAX]


def panel(result, colours):
    rows = [
        (name, ratio, colours[name])
        for name in result.names
        if (ratio := result.ratio(name, BASE, "rate"))
    ]
    return result.cell.title, sorted(rows, key=lambda row: -row[1].median)


def memory(result, colours, caption):
    panels = []
    for metric, title in (
        ("connected", "connected, nothing said"),
        ("answered", "after one message there and back"),
    ):
        rows = [
            (name, spread, colours[name])
            for name in result.names
            if (spread := result.spread(name, metric)) and spread.median > 0
        ]
        panels.append((title, sorted(rows, key=lambda row: row[1].median)))
    return bars(caption, "bytes of resident memory", panels)


def latency(result, colours, caption):
    series = []
    for name in result.names:
        windows = (window for window in result.windows if window["server"] == name)
        curves = [
            window["report"]["latency_ns"]["curve"]
            for window in windows
            if window.get("report", {}).get("latency_ns", {}).get("curve")
        ]
        places = {q: index for index, q in enumerate(QUANTILES)}
        middle = middle_curve(curves, QUANTILES)
        if middle:
            points = [(places[q], value / 1e3) for q, value in middle]
            series.append((name, colours[name], points))
    series.sort(key=lambda line: -line[2][-1][1])
    labels = [(index, percent(q)) for index, q in enumerate(QUANTILES)]
    return lines(caption, ("share of the requests", "µs, log scale"), series, labels)


def percent(q):
    return f"{100 * q:.6g}"


def blocking(shares, colours, caption):
    shares = sorted(shares, key=lambda result: result.cell.block_pct)
    names = list(dict.fromkeys(name for result in shares for name in result.names))
    series = []
    for name in names:
        points = [
            (index, spread.median)
            for index, result in enumerate(shares)
            if (spread := result.spread(name, "rate"))
        ]
        if points:
            series.append((name, colours[name], points))
    series.sort(key=lambda line: -line[2][-1][1])
    labels = [(index, f"{result.cell.block_pct:g} %") for index, result in enumerate(shares)]
    axes = ("share that blocks", "requests per second, log scale")
    return lines(caption, axes, series, labels)
