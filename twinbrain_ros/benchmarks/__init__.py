"""Benchmarks of the field: their simulators in processes of their own, trials, and what came of them."""
