"""The pages: docs/benchmarks.md, docs/benchmarks/cells.md, and the raw data beside them."""

import json

from harness import figures, pages
from harness.results import CellResult


def write_report(data, out):
    """Writes everything below a directory."""
    write_data(data, out)
    directory = data_path(out).parent
    results = [CellResult(raw, data["servers"]) for raw in data["cells"]]
    for old in directory.glob("*.svg"):
        old.unlink()
    pictures = figures.draw(results)
    for name, (_, svg) in pictures.items():
        (directory / name).write_text(svg)
    captions = {name: caption for name, (caption, _) in pictures.items()}
    (out / "benchmarks.md").write_text(pages.front(data, results, captions))
    (directory / "cells.md").write_text(pages.cells(data, results))


def data_path(out):
    """Where the raw data is, below the directory of the pages."""
    return out / "benchmarks" / "data.json"


def write_data(data, out):
    """Writes the raw data alone."""
    path = data_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(data))


def dump(data):
    """JSON with a line for each window, so that people can read it and diffs stay small."""
    head = {key: value for key, value in data.items() if key != "cells"}
    cells = []
    for cell in data["cells"]:
        facts = {key: value for key, value in cell.items() if key != "windows"}
        windows = ",\n".join(json.dumps(window) for window in cell["windows"])
        cells.append(json.dumps(facts)[:-1] + f', "windows": [\n{windows}\n]}}')
    body = ",\n".join(cells)
    return json.dumps(head, indent=1)[:-2] + f',\n "cells": [\n{body}\n]\n}}\n'
