"""The committed reference set: packed study by study, and what the documents say of it. The command is `python -m analysis.reference`."""
