"""A run's folder, its lock and checkpoints, and pictures made from them."""
