"""The pages, their pictures, and the raw data beside them."""

import json

from harness import figures
from harness.cells_page import cells
from harness.front import front
from harness.method_page import method
from harness.profiles import FULL
from harness.results import CellResult


def write_report(data, out):
    """Writes everything below a directory."""
    write_data(upgrade(data), out)
    directory = data_path(out).parent
    processors = [run["machine"]["cpu"] for run in data["runs"]]
    results = [CellResult(r, data["servers"], processors[r["run"]]) for r in data["cells"]]
    order = {cell: index for index, cell in enumerate(FULL.cells)}
    results.sort(key=lambda result: order.get(result.cell, len(order)))
    for old in directory.glob("*.svg"):
        old.unlink()
    first, others = figures.draw(data, results)
    for name, (_, svg) in (first | others).items():
        (directory / name).write_text(svg)
    (out / "benchmarks.md").write_text(front(data, results, captions(first)))
    (directory / "cells.md").write_text(cells(data, results, captions(others)))
    (directory / "method.md").write_text(method(data, results))


def captions(pictures):
    return {name: caption for name, (caption, _) in pictures.items()}


def data_path(out):
    """Where the raw data is, below the directory of the pages."""
    return out / "benchmarks" / "data.json"


def upgrade(data):
    """Data of earlier harnesses: they kept one machine for all runs."""
    for run in data["runs"]:
        run.setdefault("machine", data["machine"])
    return data


def write_data(data, out):
    """Writes the raw data alone."""
    path = data_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(data))


def dump(data):
    """JSON with a line for each window, so that people can read it and diffs stay small."""
    head = {key: value for key, value in data.items() if key not in ("cells", "runs")}
    runs = ",\n".join(json.dumps(run) for run in data["runs"])
    cells = []
    for cell in data["cells"]:
        facts = {key: value for key, value in cell.items() if key != "windows"}
        windows = ",\n".join(json.dumps(window) for window in cell["windows"])
        cells.append(json.dumps(facts)[:-1] + f', "windows": [\n{windows}\n]}}')
    whole = json.dumps(head, indent=1)[:-2] + f',\n "runs": [\n{runs}\n]'
    return whole + ',\n "cells": [\n' + ",\n".join(cells) + "\n]\n}\n"
