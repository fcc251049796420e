"""Metrics on weighted images, their intervals, and comparisons of several predictors."""
