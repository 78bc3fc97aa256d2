"""Layers that replace PyTorch's: our C++ kernels for CPUs and their modules, and BatchNorm over several processes."""
