"""Estimates, tests and intervals from frames."""
