"""SVG pictures that need nothing but themselves: rows beside axes, and lines.

Every axis comes from what is drawn on it. Ours are drawn last, so that nothing lies on them.
"""

import math
from dataclasses import dataclass
from html import escape

INK, FAINT, PAPER = "#1b1f24", "#d9dde2", "#ffffff"
FONT = 'font-family="system-ui, sans-serif" font-size="12"'

ROW = 19
# Room for a letter of a label, and for the number behind a bar.
LETTER, NUMBER = 6.6, 52
# How far beyond the longest bar an axis goes for a whisker.
WHISKERS = 1.25
DASHES = {"solid": "", "dashed": ' stroke-dasharray="6 3"', "dotted": ' stroke-dasharray="2 3"'}


@dataclass(frozen=True)
class Style:
    """How a server looks."""

    colour: str
    dash: str = "solid"
    # Ours stand out, and are drawn over the others.
    ours: bool = False


@dataclass(frozen=True)
class Column:
    """One axis beside the rows of a panel."""

    name: str
    # Bars from zero, or dots on a log scale.
    log: bool = False
    # A line stands here, if anywhere.
    mark: float = None
    width: int = 190


@dataclass(frozen=True)
class Row:
    """A label, and a spread or None for each column."""

    label: str
    style: Style
    spreads: tuple


def rows(title, panels):
    """Panels of rows, one above the other: `panels` is [(name, [Column], [Row])]."""
    labels = [row.label for *_, of_panel in panels for row in of_panel]
    left = 18 + LETTER * max(map(len, labels), default=0)
    parts, y = [], 34
    for name, columns, of_panel in panels:
        parts.append(text(12, y + 12, name, weight="600"))
        x, low = left, y + 42 + len(of_panel) * ROW
        for index, row in enumerate(of_panel):
            weight = "700" if row.style.ours else "400"
            middle = y + 36 + (index + 0.5) * ROW
            parts.append(text(left - 6, middle + 4, row.label, anchor="end", weight=weight))
        for place, column in enumerate(columns):
            spreads = [(row.style, shown(row.spreads[place], column)) for row in of_panel]
            parts += axis(x, y + 36, low, column, spreads)
            x += column.width + NUMBER + 14
        y = low + 30
    widths = [sum(c.width + NUMBER + 14 for c in columns) for _, columns, _ in panels]
    width = left + max(widths, default=0)
    return page(title, "median, quartiles", width, y, parts)


def shown(spread, column):
    """What an axis can show: nothing that is not above zero, if it is logarithmic."""
    return spread if spread and (spread.median > 0 or not column.log) else None


def axis(x, high, low, column, spreads):
    """One column of a panel: its name, its ticks and its marks."""
    present = [spread for _, spread in spreads if spread]
    if not present:
        return [text(x, high - 6, column.name, size=11), text(x + 4, high + 13, "not measured")]
    bottom, top = log_range(present) if column.log else (0, linear_top(present, column.mark))

    def across(value):
        value = min(max(value, bottom), top)
        if column.log:
            share = math.log(value / bottom) / math.log(top / bottom)
        else:
            share = value / top
        return x + column.width * share

    parts = [text(x, high - 6, column.name, size=11)]
    for tick in spaced(log_ticks(bottom, top)) if column.log else ticks(top):
        parts.append(line(across(tick), high, across(tick), low, FAINT))
        parts.append(text(across(tick), low + 13, short(tick), anchor="middle", size=11))
    if column.mark and bottom <= column.mark <= top:
        parts.append(line(across(column.mark), high, across(column.mark), low, INK))
    for index, (style, spread) in enumerate(spreads):
        middle = high + (index + 0.5) * ROW
        if spread:
            parts += mark(x, middle, style, spread, across, top, column.log)
        else:
            parts.append(text(x + 4, middle + 4, "–"))
    return parts


def mark(x, middle, style, spread, across, top, dot):
    low, median, high = (across(value) for value in (spread.low, spread.median, spread.high))
    parts = [line(low, middle, high, middle, INK, 1.5)]
    if dot:
        parts.append(f'<circle cx="{median:.1f}" cy="{middle:.1f}" r="4.5" fill="{style.colour}"/>')
    else:
        bar = (
            f'<rect x="{x:.1f}" y="{middle - 6:.1f}" width="{median - x:.1f}" height="12" '
            f'fill="{style.colour}"/>'
        )
        parts.insert(0, bar)
    for end, value in ((low, spread.low), (high, spread.high)):
        if value <= top and not dot:  # a whisker that goes on beyond the edge has no end
            parts.append(line(end, middle - 4, end, middle + 4, INK, 1.5))
    parts.append(text(max(high, median) + 7, middle + 4, short(spread.median), size=11))
    return parts


def lines(title, panels, places, size=(430, 320)):
    """Panels of lines side by side with one key: `panels` is [(axis, [(label, Style, points)])],
    each with a log scale of its own, and `places` the positions across [(x, label)]."""
    labels = list(dict.fromkeys(label for _, series in panels for label, *_ in series))
    if not labels:
        return page(title, "nothing was measured", 400, 60, [])
    parts, left, (width, height) = [], 66, size
    for name, series in panels:
        parts += line_panel(left, 52, name, series, places, size)
        left += width + 76
    key = left - 52
    order = {label: index for index, label in enumerate(labels)}
    styles = {label: style for _, series in panels for label, style, _ in series}
    for label, index in order.items():
        y, style = 58 + index * ROW, styles[label]
        parts.append(line(key, y, key + 28, y, style.colour, 3, style.dash))
        parts.append(text(key + 34, y + 4, label, weight="700" if style.ours else "400"))
    whole = key + 46 + LETTER * max(map(len, labels))
    return page(title, "", whole, max(52 + height + 44, 70 + len(labels) * ROW), parts)


def line_panel(left, high, name, series, places, size):
    right, low = left + size[0], high + size[1]
    values = [y for _, _, points in series for _, y in points if y > 0]
    if not values:
        return [text(left, high, f"{name}: not measured")]
    bottom, top = min(values) / 1.25, max(values) * 1.15
    xs = [x for x, _ in places]

    def across(x):
        return left + (right - left) * (x - xs[0]) / ((xs[-1] - xs[0]) or 1)

    def up(y):
        return low - (low - high) * math.log(y / bottom) / math.log(top / bottom)

    parts = [text(left - 50, high - 12, name, weight="600")]
    for x, label in places:
        parts.append(line(across(x), high, across(x), low, FAINT))
        parts.append(text(across(x), low + 16, label, anchor="middle", size=11))
    for tick in log_ticks(bottom, top):
        parts.append(line(left, up(tick), right, up(tick), FAINT))
        parts.append(text(left - 6, up(tick) + 4, short(tick), anchor="end", size=11))
    for _, style, points in sorted(series, key=lambda each: each[1].ours):
        kept = [(x, y) for x, y in points if y > 0]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in kept)
        width = 3 if style.ours else 1.6
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{style.colour}" '
            f'stroke-width="{width}"{DASHES[style.dash]}/>'
        )
        parts += [
            f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="{width}" fill="{style.colour}"/>'
            for x, y in kept
        ]
    return parts


def page(title, axis, width, height, parts):
    heading = [text(12, 18, title, weight="700"), text(12 + 7.4 * len(title) + 12, 18, axis)]
    width = max(width, 24 + 7.4 * len(title) + 7 * len(axis))
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


def text(x, y, words, anchor="start", weight="400", size=12):
    small = f' font-size="{size}"' if size != 12 else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"{small}>'
        f"{escape(words)}</text>"
    )


def line(x1, y1, x2, y2, stroke, width=1, dash="solid"):
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{stroke}" stroke-width="{width}"{DASHES[dash]}/>'
    )


def linear_top(spreads, mark):
    """Where an axis from zero ends: behind the longest bar, and behind whiskers that fit."""
    most = max([mark or 0, *(spread.median for spread in spreads)])
    whiskers = [spread.high for spread in spreads if spread.high <= most * WHISKERS]
    return nice_above(max([most * 1.02, *whiskers]) or 1)


def log_range(spreads):
    """Where a log axis begins and ends: around all that is on it, and never without width."""
    bottom = min(spread.low if spread.low > 0 else spread.median for spread in spreads)
    top = max(spread.high for spread in spreads)
    return bottom / 1.1, max(top * 1.1, bottom * 1.5)


def nice_above(value):
    """The least of these steps times a power of ten that is not below."""
    scale = 10 ** math.floor(math.log10(value))
    steps = (1, 1.1, 1.2, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 7.5, 10)
    return next(step * scale for step in steps if step * scale >= value * 0.9999)


def ticks(top):
    """From 0 to the top, in about five steps of a round size."""
    step = nice_step(top / 6)
    return [round(step * i, 10) for i in range(int(top / step + 1e-9) + 1)]


def nice_step(least):
    """1, 2, 2.5 or 5 times a power of ten, and not below."""
    scale = 10 ** math.floor(math.log10(least))
    return next(each * scale for each in (1, 2, 2.5, 5, 10) if each * scale >= least * 0.9999)


def log_ticks(bottom, top):
    """Every power of ten, and twice and five times it; even steps where the axis is short."""
    if top / bottom < 4:
        step = nice_step((top - bottom) / 5)
        first = math.ceil(bottom / step - 1e-9)
        return [round(step * i, 10) for i in range(first, int(top / step + 1e-9) + 1)]
    found, scale = [], 10 ** math.floor(math.log10(bottom))
    while scale <= top:
        found += [scale * step for step in (1, 2, 5) if bottom <= scale * step <= top]
        scale *= 10
    return [round(value, 10) for value in found]


def spaced(values, most=6):
    """Some of many ticks, evenly chosen, among them 1 if it is there."""
    if len(values) <= most:
        return values
    step = math.ceil(len(values) / most)
    first = values.index(1) % step if 1 in values else 0
    return values[first::step]


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
