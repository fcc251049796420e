"""Models for Leukoscope: each folder beside this file is a bundle; nothing here runs."""
