"""Whether another process of this machine has ended."""

import psutil


def has_ended(pid: int) -> bool:
    """Whether it is known to have: also of a process whose end its parent has not heard of yet."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
