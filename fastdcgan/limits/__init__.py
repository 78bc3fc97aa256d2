"""The most that a machine could reach, predictions for GPUs and for many of them, and what the machine is."""
