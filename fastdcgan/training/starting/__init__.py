"""What a run begins or goes on with: another run's weights, an earlier checkpoint, other options."""
