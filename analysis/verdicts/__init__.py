"""The verdicts of a sweep: `python -m analysis.verdicts results/STUDY`."""
