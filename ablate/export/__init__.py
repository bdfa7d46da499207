"""A policy or reward model of a run as a Hugging Face folder: `python -m ablate.export`."""
