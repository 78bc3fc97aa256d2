"""Pictures as arrays of numbers: from any range to 8 bits, and folders of NumPy files."""
