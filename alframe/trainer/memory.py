"""Host memory between one batch and the next."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
LARGEST_IN_HEAP = 32 << 20  # what glibc admits


def keep_freed_memory() -> bool:
    """Make glibc keep the memory of a batch for the next one; returns whether it does. For the whole process, Linux only.

    Where its heap happens to lie decides otherwise whether every batch's activations are given back to the system and
    faulted in again page by page, which takes up to half as long as a small network's pass itself. What is kept is bounded
    by the most that was ever in use, tensors above 32 MB excepted. Other C libraries are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_IN_HEAP)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
