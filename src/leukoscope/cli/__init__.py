"""The command line: the program, and what its commands share."""
