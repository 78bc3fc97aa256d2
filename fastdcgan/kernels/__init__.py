"""Our C++ for CPUs, the modules that use it, and BatchNorm over several processes."""
