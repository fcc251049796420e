"""The report of a comparison of recipes."""
