"""Settings: which values are allowed, which of them decide a run's numbers, and how overrides are read."""
