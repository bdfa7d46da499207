"""Thresholds of the alarms that judge runs without a gold reward."""
