"""Whether the embedded world behaves as docs/explanation/world.md says it must."""
