"""Independent references, written to be easy to check: tests compare the fast code with them, benchmarks time it."""
