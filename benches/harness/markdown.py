"""Tables and numbers in Markdown."""

from harness.plots import short


def percent(share):
    return f"{100 * share:.0f} %"


def spread_text(spread):
    if spread is None:
        return "–"
    if spread.count == 1:
        return short(spread.median)
    return f"{short(spread.median)} [{short(spread.low)}–{short(spread.high)}]"


def ratio_text(spread):
    if spread is None:
        return "–"
    return f"{spread.median:.2f} [{spread.low:.2f}–{spread.high:.2f}]"


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


def join(parts):
    """A page of paragraphs; those that are empty are left out."""
    return "\n\n".join(part for part in parts if part) + "\n"
