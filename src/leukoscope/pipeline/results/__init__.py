"""From the predictions of every fold to the entries of ``metrics.json``."""
