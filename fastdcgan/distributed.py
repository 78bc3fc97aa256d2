"""Where the run takes place: devices and processes, through Hugging Face Accelerate.

Accelerate finds the device, joins the processes that a launcher started, and wraps networks for DDP. Precision,
compilation and gradient scaling are the plan's, so that they are the same with and without a launcher.
"""

import os

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from fastdcgan.config import ExecutionConfig


def join(request: ExecutionConfig) -> Accelerator:
    """Take our place among the processes of this run: one of one, unless a launcher says otherwise."""
    # D's buffers must not be broadcast inside its second forward of a step: that would change, in place, what the first
    # one's backward needs. Each rank keeps BatchNorm statistics of its own, and rank 0's are saved.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(cpu=request.device == "cpu", mixed_precision="no", kwargs_handlers=[ddp])


def launcher_precision() -> str:
    """What `accelerate launch --mixed_precision` asked for: "no", "bf16", "fp16" ..."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
