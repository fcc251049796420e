"""Networks and their training; the lowest layer that may import torch."""

import os

# Read by OpenMP when torch loads it. Threads that spin while they wait slow training on a busy
# machine several times; a value the user has set stands.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
