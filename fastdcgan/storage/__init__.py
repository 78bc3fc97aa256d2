"""Atomic file writes, checksums, strict JSON, the cache folder, signals."""
