"""How glibc's malloc treats memory that is freed between two passes."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT = 2**30  # bytes freed at the end of the heap that the process keeps at most
ON_HEAP = 2**25  # bytes from which a block is mapped separately, and returned to the system when it is freed


def retain_freed_memory() -> None:
    """Keep the memory that one pass frees for the next one.

    By default glibc returns it to the system, and the next pass requests it again, page by page. Without glibc this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        malloc = ctypes.CDLL(None)
        malloc.mallopt(M_MMAP_THRESHOLD, ON_HEAP)
        malloc.mallopt(M_TRIM_THRESHOLD, KEPT)
