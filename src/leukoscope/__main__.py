"""``python -m leukoscope`` is the same program as ``leukoscope``."""

from leukoscope.cli.main import run

run()
