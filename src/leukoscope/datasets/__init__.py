"""Data sets: layouts, manifest, duplicates, acquisition clusters, splits, passport."""
