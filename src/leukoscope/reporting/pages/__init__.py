"""Reports of their own: arms, a tuning, a foreign model, a relabel queue."""
