"""Schemas of everything that is configured or travels in files, and their loading."""

DEFAULT_RECIPE = "shallow"
"""What a command trains where no recipe is named, and what the probes see with."""
PATIENT_RECIPES = ("patient-mean", "patient-spread")
"""What a study of patients trains where no recipe is named."""
