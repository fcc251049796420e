"""Schemas of everything that is configured or travels in files, and their loading."""
