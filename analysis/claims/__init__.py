"""Claims as data, judged by intervals."""
