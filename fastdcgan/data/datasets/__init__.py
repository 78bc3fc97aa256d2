"""Public data sets: CIFAR-10, CelebA, Fashion-MNIST."""
