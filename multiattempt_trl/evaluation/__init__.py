"""Evaluation: plays benchmarks with the same `play` as training, counts, and writes a report."""
