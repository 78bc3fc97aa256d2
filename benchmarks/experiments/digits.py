"""Handwritten digits: 1,797 pictures that come with scikit-learn, so that an experiment has other pictures than faces.

Alpaydin and Kaynak 1998, the test part of UCI's "Optical Recognition of Handwritten Digits": 8x8, 17 greys.
"""

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Resampling, fromarray

from fastdcgan.data.array import ArraySource
from fastdcgan.gan.architecture import Size


def digits_labels() -> NDArray[np.int64]:
    """Which digit each of them is."""
    from sklearn.datasets import load_digits

    labels_N: NDArray[np.int64] = load_digits().target.astype(np.int64)
    return labels_N


def digits(size: Size) -> ArraySource:
    """All of them, white on black, enlarged (bicubic), with the grey in three channels."""
    from sklearn.datasets import load_digits

    greys_NHW = (load_digits().images * (255 / 16)).round().astype(np.uint8)
    pictures = (fromarray(grey_HW).resize((size.width, size.height), Resampling.BICUBIC) for grey_HW in greys_NHW)
    enlarged_NHW = np.stack([np.asarray(picture) for picture in pictures])
    return ArraySource(
        np.repeat(enlarged_NHW[..., None], 3, axis=-1),
        description=f"{len(greys_NHW):,} handwritten digits of scikit-learn",
        origin="scikit-learn's digits",
    )
