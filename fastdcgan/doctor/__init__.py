"""What is here to train with, what of it is used and why not the rest: `fastdcgan doctor`."""
