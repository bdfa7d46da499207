"""Hyperparameter search with Optuna: `python -m ablate.tune`."""
