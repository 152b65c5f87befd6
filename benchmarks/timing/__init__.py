"""What exists for speed, measured: `pytest benchmarks/timing --benchmark-only`."""
