"""What every sitting would import, and compile or look for, first."""

import jinja2  # noqa: F401
import tyro  # noqa: F401

from fastdcgan import fused_norm, thin, winograd

for kernels in (fused_norm, thin, winograd):
    kernels.available()
