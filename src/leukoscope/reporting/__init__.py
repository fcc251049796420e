"""Figures, tables, the report and the model card, drawn from a study's files."""
