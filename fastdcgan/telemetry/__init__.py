"""A run's output: progress on the terminal, metrics on disk, trackers, the report, profiles."""
