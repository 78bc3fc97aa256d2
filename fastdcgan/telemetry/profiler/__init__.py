"""Profiling steps with PyTorch's profiler, and summaries of its traces."""
