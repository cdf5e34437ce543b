"""Benchmarks. Each module runs alone, states load, machine and exclusions, and checks its answer."""
