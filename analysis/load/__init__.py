"""Run folders to tidy frames. No statistics."""
