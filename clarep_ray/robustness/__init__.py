"""Robustness evaluation: attacks, trust checks, benchmarks and statistics in pure torch."""
