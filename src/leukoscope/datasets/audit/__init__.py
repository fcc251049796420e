"""The audit of a data set: measure each image, link copies and sessions, write the passport."""
