"""fastdcgan: the fastest honest way to train a DCGAN."""

__version__ = "0.1.0"
