"""Sources of pictures, their order, and batches made from them. `open.py` opens a source by name or path."""
