"""``python -m cluster``: the command line, e.g. under ``torchrun -m cluster train CONFIG``."""

from cluster.cli import main

main()
