"""fastdcgan: the fastest honest way to train a DCGAN."""

from importlib.metadata import version

__version__ = version("fastdcgan")
