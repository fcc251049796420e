"""The bundle and what predicts with it; no torch."""
