"""Recording steps with PyTorch's profiler, and reading what it recorded."""
