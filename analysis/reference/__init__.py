"""The committed reference set: packing it, and the figure drawn from it. `python -m analysis.reference`."""
