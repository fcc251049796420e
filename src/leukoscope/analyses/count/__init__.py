"""The differential: cell types by patient, counted and adjusted."""
