"""Run folders: their writer and readers, checkpoints, trackers, and how the config of a run is composed."""
