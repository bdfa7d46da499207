"""Run folders → tidy frames. No statistics are computed here."""
