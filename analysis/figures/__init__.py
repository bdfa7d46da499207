"""Frames → matplotlib Figures. A figure reads no file and writes none."""
