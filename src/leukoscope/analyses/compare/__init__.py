"""Recipes of one or more runs against each other, from their files."""
