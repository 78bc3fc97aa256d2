"""Files written whole or not at all, checksums, strict JSON, the cache folder, signals."""
