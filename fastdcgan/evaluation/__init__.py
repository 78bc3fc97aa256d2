"""How good a run's pictures are: features of real and generated ones, distances between them, their records."""
