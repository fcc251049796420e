"""Networks and their training; the lowest layer that may import torch.

``num_classes`` and ``n_classes`` are K, ``y`` is (n,) class indices, ``batch`` is (N, 3, S, S)
float32 and normalised, preprocessed ``images`` are (n, S, S, 3) uint8 RGB.
"""

import os

# Read by OpenMP when torch loads it. Threads that spin while they wait slow training on a busy
# machine several times; a value the user has set stands.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
