"""How a training step is executed: plans, and the code that carries them out."""
