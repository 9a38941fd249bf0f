"""Side-by-side measurements: ``make bench NAME=…`` (``python -m bench.<name>``); see ``bench/report.py`` for what they print."""

import os

# Read by OpenMP when torch is imported: threads that spin while they wait would slow the other side, and the neighbours.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
