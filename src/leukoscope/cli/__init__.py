"""The command line; heavy imports stay inside commands."""
