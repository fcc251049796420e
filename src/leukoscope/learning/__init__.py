"""Networks and their training; the lowest layer that may import torch."""
