"""
What the package costs, as ratios: both sides of a ratio are measured in turn within one run.

``python -m benchmarks`` runs all, ``python -m benchmarks pair`` one.  A machine that does other work at the
time shows in the spread, which is printed with each median.
"""
