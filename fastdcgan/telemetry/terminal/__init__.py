"""Output on the terminal: the live view, progress lines, tables."""
