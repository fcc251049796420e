"""The figures, one module a theme; each function takes plain values and returns a Figure."""
