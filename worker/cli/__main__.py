"""``python -m worker.cli``: the same as ``clonejob``."""

from worker.cli import main

main()
