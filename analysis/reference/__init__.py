"""The committed reference set: packing, unpacking and the figure drawn from it. The command is `python -m analysis.reference`."""
