"""Benchmarks: what Penstock reaches, as ratios to limits measured in the same run. See README.md."""
