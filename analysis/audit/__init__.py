"""Logs of other trainers of RLHF, read as monitors of this project."""
