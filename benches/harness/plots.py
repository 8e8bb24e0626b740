"""SVG pictures that need nothing but themselves: bars with whiskers, and lines on log scales."""

import math
from html import escape

INK, FAINT, PAPER = "#1b1f24", "#d9dde2", "#ffffff"
OURS = ("#d1410c", "#f08c2e", "#8f2d56")
LIMITS = ("#1b1f24", "#6b7280")
# Also distinct for people who don't see all colours, as far as that is possible for so many.
PEERS = (
    "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#7a5195", "#5d8a1f", "#b8860b",
    "#2f4b7c", "#a05195", "#00868b", "#8c6d31", "#637939", "#7f7f7f",
)  # fmt: skip

ROW, LABEL, BAR = 19, 150, 300
# How much longer than the longest bar the axis is, for whiskers.
HEADROOM = 1.1
FONT = 'font-family="system-ui, sans-serif" font-size="12"'


def bars(title, axis, panels, columns=2):
    """Horizontal bars: `panels` is [(title, [(label, Spread, colour)])]; a line stands at 1."""
    most = [spread.median for _, rows in panels for _, spread, _ in rows]
    top = nice_above(max([1.0, *most]) * HEADROOM)
    width = LABEL + BAR + 70
    rows_of = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    parts, y = [], 34
    for row in rows_of:
        for column, (name, rows) in enumerate(row):
            parts += panel(12 + column * width, y, name, rows, top)
        y += max(len(rows) for _, rows in row) * ROW + 62
    return page(title, axis, columns * width + 12, y + 8, parts)


def panel(x, y, name, rows, top):
    """One panel of bars, its ticks and its title."""
    bottom = y + 26 + len(rows) * ROW
    parts = [text(x, y + 12, name, weight="600")]
    for tick in ticks(top):
        at = x + LABEL + BAR * tick / top
        stroke = INK if tick == 1 else FAINT
        parts.append(line(at, y + 20, at, bottom, stroke))
        parts.append(text(at, bottom + 14, f"{tick:g}", anchor="middle"))
    for index, (label, spread, colour) in enumerate(rows):
        middle = y + 20 + index * ROW + ROW / 2 + 2
        low, median, high = (
            x + LABEL + BAR * min(value, top) / top
            for value in (spread.low, spread.median, spread.high)
        )
        parts.append(text(x + LABEL - 6, middle + 4, label, anchor="end"))
        parts.append(
            f'<rect x="{x + LABEL}" y="{middle - 6:.1f}" width="{median - x - LABEL:.1f}" '
            f'height="12" fill="{colour}"/>'
        )
        parts.append(line(low, middle, high, middle, INK, 1.5))
        for end, value in ((low, spread.low), (high, spread.high)):
            if value <= top:  # a whisker that goes on beyond the edge has no end
                parts.append(line(end, middle - 4, end, middle + 4, INK, 1.5))
        parts.append(text(max(high, median) + 5, middle + 4, short(spread.median)))
    return parts


def lines(title, axes, series, places, log=True):
    """Lines: `series` is [(label, colour, [(x, y)])], `places` the x positions [(x, label)]."""
    values = [y for _, _, points in series for _, y in points if y > 0 or not log]
    if not values:
        return page(title, "nothing was measured", 400, 60, [])
    bottom, top = (decade_below(min(values)), max(values) * 1.1) if log else (0, max(values) * 1.1)
    left, right, high, low = 76, 560, 44, 380
    xs = [x for x, _ in places]

    def across(x):
        return left + (right - left) * (x - xs[0]) / ((xs[-1] - xs[0]) or 1)

    def up(y):
        if log:
            share = (math.log(y) - math.log(bottom)) / (math.log(top) - math.log(bottom))
        else:
            share = y / top
        return low - (low - high) * share

    parts = []
    for x, label in places:
        parts.append(line(across(x), high, across(x), low, FAINT))
        parts.append(text(across(x), low + 16, label, anchor="middle"))
    for tick in log_ticks(bottom, top) if log else ticks(top):
        parts.append(line(left, up(tick), right, up(tick), FAINT))
        parts.append(text(left - 6, up(tick) + 4, short(tick), anchor="end"))
    for index, (label, colour, points) in enumerate(series):
        kept = [(x, y) for x, y in points if y > 0 or not log]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in kept)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="2.5" fill="{colour}"/>'
                  for x, y in kept]  # fmt: skip
        key = high + 10 + index * ROW
        parts.append(line(right + 20, key, right + 44, key, colour, 3))
        parts.append(text(right + 50, key + 4, label))
    height = max(low + 44, high + 20 + len(series) * ROW)
    across_name, up_name = axes
    parts.append(text((left + right) / 2, low + 36, across_name, anchor="middle"))
    return page(title, up_name, right + 220, height, parts)


def page(title, axis, width, height, parts):
    heading = [text(12, 18, title, weight="700"), text(12 + 7.2 * len(title) + 12, 18, axis)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
            f'width="{width:g}" height="{height:g}" {FONT} fill="{INK}">',
            f"<title>{escape(title)}</title>",
            f'<rect width="100%" height="100%" fill="{PAPER}"/>',
            *heading,
            *parts,
            "</svg>\n",
        ]
    )


def text(x, y, words, anchor="start", weight="400"):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(words)}</text>"
    )


def line(x1, y1, x2, y2, stroke, width=1):
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{stroke}" stroke-width="{width}"/>'
    )


def nice_above(value):
    """The least of 1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 7.5 times a power of ten that is not below."""
    scale = 10 ** math.floor(math.log10(value))
    steps = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10)
    return next(step * scale for step in steps if step * scale >= value * 0.9999)


def ticks(top):
    """From 0 to the top, in about five steps of a round size."""
    step = nice_above(top / 6)
    return [round(step * i, 10) for i in range(int(top / step + 1e-9) + 1)]


def decade_below(value):
    return 10 ** math.floor(math.log10(value))


def log_ticks(bottom, top):
    """Every power of ten, and twice and five times it."""
    found, scale = [], bottom
    while scale <= top:
        found += [scale * step for step in (1, 2, 5) if bottom <= scale * step <= top]
        scale *= 10
    return found


def short(value):
    """A number with three digits: 1.23, 12.3, 123, 12.3 k, 1.23 M."""
    for limit, unit in ((1e6, " M"), (1e4, " k")):
        if value >= limit:
            return three(value / (1e6 if unit == " M" else 1e3)) + unit
    return three(value)


def three(value):
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    written = f"{value:.{digits}f}"
    return written.rstrip("0").rstrip(".") if "." in written else written
