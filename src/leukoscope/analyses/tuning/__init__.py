"""The search for better values of a recipe, on validation images only."""
