"""The pipeline: protocols, probes, run, resume."""
