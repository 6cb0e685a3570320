"""The tests. This comes before numpy and torch, which count their threads when they are imported:
tests measure nothing, and matrices of several threads wait for each other on busy cores."""

import os

for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
