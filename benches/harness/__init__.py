"""The harness behind `benches/run`: Python 3.9 or later, its standard library, nothing else.

main           the command line
servers        who takes part, and how each is built and started
cells          what is measured: the matrix and the profiles
arena          one cell: all servers up, one awake at a time, windows in rotation
machine        the machine's facts, and who else used its CPUs
progress       the progress bar
summary        medians, quartiles and ratios: the only arithmetic
results        a cell's windows, as what the report asks of them
plots          SVG pictures of anything
figures        which pictures the report has
pages          its words and tables
report         where all that is written to
instructions   `benches/instructions`, which counts instead of timing
"""
