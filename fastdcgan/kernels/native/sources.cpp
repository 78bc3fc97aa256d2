// Of which sources and flags a library was built: see build.py.

extern "C" const char *kernels_source_hash() { return SOURCE_HASH; }
