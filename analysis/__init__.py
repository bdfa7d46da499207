"""From run folders to verdicts: load → estimate → draw, each apart and pure. Nothing here imports torch."""
