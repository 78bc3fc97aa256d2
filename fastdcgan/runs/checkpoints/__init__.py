"""A checkpoint: its folder and name, its record, its tensors, and the saving and loading of all of it."""
