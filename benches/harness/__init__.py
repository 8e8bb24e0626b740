"""The harness behind `benches/run`: Python 3.9 or later, its standard library, nothing else.

main           the command line
servers        who takes part
builds         how their programs are built
launch         what is typed for each of them
cells          what is measured: a cell, and the kinds of cells
profiles       how much is measured: the matrix and its parts
arena          one cell: all servers up, one awake at a time, windows in rotation
loads          what loads them for a window
probes         whether they do what they are measured by
machine        the machine's facts, and who else used its CPUs
progress       the progress bar
summary        medians, quartiles and ratios: the only arithmetic
results        a cell's windows, as what the report asks of them
plots          SVG pictures of anything
figures        which pictures the report has
losses         where a peer is better
markdown       tables and numbers
front          docs/benchmarks.md: one page
cells_page     docs/benchmarks/cells.md: every cell
method_page    docs/benchmarks/method.md: how, by what, where, and what went wrong
report         where all that is written to
instructions   `benches/instructions`, which counts instead of timing
"""
