"""Run folders: writing, reading, checkpoints, trackers, and composing the config of a run."""
