"""The DCGAN itself: geometry, networks, losses, the training step, and the specification they are held to."""
