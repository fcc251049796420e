"""Probabilities that hold: temperature and vector scaling, their errors, prediction sets."""
