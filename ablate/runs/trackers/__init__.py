"""One file per tracker: what it makes of a run's rows, by its own library, which is imported when it starts."""
