"""What is done with finished studies, or across several: compare, tune, damage, relabel."""
