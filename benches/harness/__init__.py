"""The harness behind `benches/run`: Python 3.9 or later, its standard library, nothing else.

    servers   who takes part, and how each is built and started
    cells     what is measured: the matrix and the profiles
    arena     one cell: all servers up, one awake at a time, windows in rotation
    machine   the machine's facts, and who else used its CPUs
    summary   medians, quartiles and ratios: the only arithmetic
    plots     SVG pictures of summaries
    report    the pages
    main      the command line
"""
