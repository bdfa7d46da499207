"""Answers of two policies compared by an LLM or a reward model: `python -m ablate.judge`."""
