"""A package, so that its files may be called what those in tests/ are called."""
