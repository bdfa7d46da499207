"""Settings: what may be said, what decides a run's numbers, and how overrides are read."""
