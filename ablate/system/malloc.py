"""Memory of the CPU between passes."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT = 2**30  # most freed bytes at the end of the heap that stay with the process
ON_HEAP = 2**25  # bytes from which a block is one of its own, which returns to the system when it is freed


def retain_freed_memory() -> None:
    """Let the process keep memory that a pass has freed for the next one.

    By default glibc gives it back, and the next pass fetches it again, page by page. Nothing is done where malloc is another's.
    """
    if platform.libc_ver()[0] == "glibc":
        malloc = ctypes.CDLL(None)
        malloc.mallopt(M_MMAP_THRESHOLD, ON_HEAP)
        malloc.mallopt(M_TRIM_THRESHOLD, KEPT)
