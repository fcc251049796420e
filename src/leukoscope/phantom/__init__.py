"""A procedural blood-smear renderer with ground truth."""
