"""The schema of ``metrics.json``, by topic; :mod:`~leukoscope.config.metrics.file` reads it."""
