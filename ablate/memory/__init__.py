"""The memory a run will need, predicted before anything is loaded: `python -m ablate.memory`."""
