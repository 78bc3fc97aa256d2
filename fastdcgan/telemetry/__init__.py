"""What a run tells its user: progress on the terminal, metrics on disk, TensorBoard, plots."""
