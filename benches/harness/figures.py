"""Which pictures the report has, and what is in them."""

import colorsys
import itertools

from harness.cells import thousands
from harness.plots import Column, Row, Style, lines, rows
from harness.results import LIMITS
from harness.servers import HAND_OFF, SERVERS
from harness.summary import middle_curve

# Where the curves of latency are read; the axis stretches towards 1.
QUANTILES = (0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999)
# Panels of one picture by cell.
PANELS_MAX = 4
# Only ours are red or orange, only the limits black or grey; nothing else has these.
OURS = (
    "#f28e2b", "#c2185b", "#ffc400", "#ff7f7f", "#a0522d", "#6b0f1a", "#e8590c", "#8f1d3f",
    "#b5651d",
)  # fmt: skip
USUAL = "#d62600"
LIMIT_COLOURS = ("#111111", "#8a8f98", "#50555c", "#2f3338", "#a9aeb6", "#6b7078")
PEERS = (
    "#1f77b4", "#17becf", "#2ca02c", "#7b4fc9", "#b39ddb", "#5d4037", "#e377c2", "#1a237e",
    "#8bc34a", "#90caf9", "#9e9d24", "#00695c", "#5c6bc0", "#4dd0e1", "#33691e", "#ab47bc",
    "#bcaaa4", "#0d47a1", "#c5e1a5", "#6d4c8d", "#26a69a",
)  # fmt: skip
DASHES = ("solid", "dashed", "dotted")
# From where to where on the circle, and how light; steps of the golden ratio stay apart.
WARM, COLD = (0.0, 0.13), (0.2, 0.85)
LIGHTS, GOLDEN = (0.35, 0.62, 0.48), 0.618034


def choose_styles(data):
    """A colour for each server that no other has, the same in every picture."""
    # In the order of the harness, whatever the order of the runs.
    known = [server.name for server in SERVERS]
    order = {name: index for index, name in enumerate(known)}
    servers = sorted(data["servers"], key=lambda server: order.get(server["name"], len(known)))
    names = [server["name"] for server in servers]
    ours = [server["name"] for server in servers if server["ours"]]
    usual = f"netpoll {HAND_OFF}"
    styles = {name: Style(colour) for name, colour in zip(LIMITS, LIMIT_COLOURS)}
    styles[usual] = Style(USUAL, ours=True)
    others = [name for name in ours if name != usual]
    for colour, name in zip(colours(OURS, len(others), WARM), others):
        styles[name] = Style(colour, ours=True)
    peers = [name for name in names if name not in styles]
    for index, (colour, name) in enumerate(zip(colours(PEERS, len(peers), COLD), peers)):
        styles[name] = Style(colour, DASHES[index % len(DASHES)])
    return styles


def colours(chosen, count, hues):
    """So many different colours: the chosen ones first, then others of these hues."""
    first, last = hues
    more = (
        colorsys.hls_to_rgb(first + (last - first) * (index * GOLDEN % 1), light, 0.75)
        for index, light in zip(range(max(0, count - len(chosen))), itertools.cycle(LIGHTS))
    )
    made = ["#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in rgb)) for rgb in more]
    return [*chosen, *made][:count]


def draw(data, results):
    """The pictures of the first page and those by cell: {file: (caption, SVG)} each."""
    styles = choose_styles(data)
    return front(results, styles), by_cell(results, styles)


def front(results, styles):
    """At most five pictures, the first page's, in its order."""
    pictures = {}
    if plain := find(results, "echo-c64-s64-d1-pinned"):
        caption = f"Echo, {plain.cell.title}: what a framework adds to the system calls"
        pictures["echo.svg"] = (caption, one_cell(caption, [plain], styles))
    if shares := of_one_processor(blocked(results)):
        caption = "64 connections of which a share of the requests blocks for 1 ms"
        pictures["blocking.svg"] = (caption, blocking(shares, styles, caption))
    if opened := find(results, "open-c64-s64-pinned"):
        caption = f"Latency at {thousands(opened.rate)} requests per second, {opened.cell.title}"
        pictures["constant-rate.svg"] = (caption, latency(opened, styles, caption))
    matrix = [result for result in results if is_matrix(result) and result.cell.pinned]
    if matrix:
        matrix.sort(key=lambda r: (r.cell.connections, r.cell.size, r.cell.depth))
        caption = "The default mode over the peer with most requests, cell by cell"
        pictures["cells.svg"] = (caption, against_best(caption, matrix))
    work = [result for result in results if result.cell.kind.speaks != "echo"]
    if work:
        caption = "Real protocols: netpoll over its best peer"
        pictures["protocols.svg"] = (caption, against_best(caption, work))
    return pictures


def by_cell(results, styles):
    """The pictures of cells.md: every cell and every server."""
    pictures = {}
    groups = {
        "pinned": [r for r in results if is_matrix(r) and r.cell.pinned],
        "not-pinned": [r for r in results if is_matrix(r) and not r.cell.pinned],
        "protocols": [r for r in results if r.cell.kind.speaks != "echo"],
        "bad": [r for r in results if r.cell.way in ("bad", "hot")],
    }
    captions = {
        "pinned": "Echoes, pinned",
        "not-pinned": "Echoes, not pinned",
        "protocols": "Real protocols",
        "bad": "Connections that disturb others",
    }
    for group, chosen in groups.items():
        for first in range(0, len(chosen), PANELS_MAX):
            number = first // PANELS_MAX + 1
            caption = f"{captions[group]}, {number}"
            svg = one_cell(caption, chosen[first : first + PANELS_MAX], styles)
            pictures[f"{group}-{number}.svg"] = (caption, svg)
    for result in results:
        if result.cell.mode == "open":
            rate = thousands(result.rate)
            caption = f"Latency at {rate} requests per second, {result.cell.title}"
            svg = latency(result, styles, caption)
            pictures[f"latency-{result.cell.key}.svg"] = (caption, svg)
        if result.cell.mode == "idle":
            caption = f"Memory per connection, {result.cell.title}"
            pictures[f"memory-{result.cell.key}.svg"] = (caption, memory(result, styles, caption))
    return pictures


def find(results, key):
    return next((result for result in results if result.cell.key == key), None)


def is_matrix(result):
    """Whether it is of the matrix of echoes, or of connections."""
    return result.cell.mode in ("echo", "churn", "ten") and result.cell.block_pct is None


def blocked(results):
    """The cells of the usual requests that block, by their share."""
    chosen = [r for r in results if r.cell.block_pct is not None and r.cell.way is None]
    return sorted(chosen, key=lambda result: result.cell.block_pct)


def of_one_processor(results):
    """Those of the processor with most of them, of the last one where several have as many: one
    line must not join the rates of two machines."""
    counts = {}
    for result in sorted(results, key=lambda result: result.run):
        counts[result.processor] = counts.pop(result.processor, 0) + 1
    most = max(reversed(counts), key=counts.get, default=None)
    return [result for result in results if result.processor == most]


def one_cell(caption, chosen, styles):
    """Requests, processor time and p99 of every server of some cells."""
    panels = []
    for result in chosen:
        of_cell = [
            Row(
                name,
                styles[name],
                (
                    result.ratio(name, result.base, "rate"),
                    result.ratio(name, result.base, "cpu"),
                    result.spread(name, "p99"),
                ),
            )
            for name in result.names
        ]
        of_cell.sort(key=lambda row: -row.spreads[0].median if row.spreads[0] else 0)
        columns = (
            Column(f"{result.cell.unit}/s ÷ {result.base}", mark=1),
            Column(f"CPU each ÷ {result.base} (less is better)", mark=1),
            Column("p99 in µs, log scale (less is better)", log=True),
        )
        panels.append((result.cell.title, columns, of_cell))
    return rows(caption, panels)


def against_best(caption, chosen):
    """A row for each cell: what a user gets from us by default, over the best peer."""
    of_cells = []
    for result in chosen:
        best = result.best_peer("rate", highest=True)
        if best is None or result.usual is None:
            continue
        ratios = tuple(result.ratio(result.usual, best, m) for m in ("rate", "cpu", "p99"))
        of_cells.append(Row(f"{result.cell.place}: {best}", Style(USUAL), ratios))
    columns = (
        Column("requests/s ÷ its, log scale", log=True, mark=1),
        Column("CPU each ÷ its (less is better)", log=True, mark=1),
        Column("p99 ÷ its (less is better)", log=True, mark=1),
    )
    return rows(caption, [("", columns, of_cells)])


def memory(result, styles, caption):
    of_cell = [
        Row(name, styles[name], tuple(result.spread(name, m) for m in ("connected", "answered")))
        for name in result.names
    ]
    of_cell.sort(key=lambda row: row.spreads[1].median if row.spreads[1] else 0)
    columns = (
        Column("bytes, connected and silent", log=True, width=240),
        Column("bytes, after one message", log=True, width=240),
    )
    return rows(caption, [("resident memory, log scale", columns, of_cell)])


def latency(result, styles, caption):
    places = {q: index for index, q in enumerate(QUANTILES)}
    labels = [(index, percent(q)) for index, q in enumerate(QUANTILES)]
    series = []
    for name in result.names:
        windows = (window for window in result.windows if window["server"] == name)
        curves = [
            window["report"]["latency_ns"]["curve"]
            for window in windows
            if window.get("report", {}).get("latency_ns", {}).get("curve")
        ]
        if middle := middle_curve(curves, QUANTILES):
            points = [(places[q], value / 1e3) for q, value in middle]
            series.append((name, styles[name], points))
    series.sort(key=lambda line: -line[2][-1][1])
    axis = "µs, log scale, over the share of the requests in %"
    return lines(caption, [(axis, series)], labels, size=(640, 360))


def percent(q):
    return f"{100 * q:.6g}"


def blocking(shares, styles, caption):
    """Requests and p99 over the share that blocks."""
    names = list(dict.fromkeys(name for result in shares for name in result.names))
    labels = [(index, f"{result.cell.block_pct:g} %") for index, result in enumerate(shares)]
    panels = []
    for metric, axis in (("rate", "requests per second"), ("p99", "p99 in µs")):
        series = []
        for name in names:
            points = [
                (index, spread.median)
                for index, result in enumerate(shares)
                if (spread := result.spread(name, metric))
            ]
            if points:
                series.append((name, styles[name], points))
        series.sort(key=lambda line: -line[2][-2 if len(line[2]) > 1 else 0][1])
        panels.append((f"{axis}, log scale", series))
    return lines(caption, panels, labels)


