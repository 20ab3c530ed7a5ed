"""Memory for a tensor on its way in.

Much of what receiving a large tensor costs is the kernel's handing out of memory, page by page at its first touch: 0.8 s a
GB here, as much as hashing it. In pages of 2 MiB instead of 4 KiB it is 0.3 s. So a tensor gets memory of its own, asked
for in large pages where the system has them, and whoever receives it looks at that memory instead of at a copy.
"""

import contextlib
import mmap

_OWN = 4 * 1024 * 1024
"""Bytes from which memory of its own pays: two large pages. Below, the allocator has warm memory as a rule."""


def room_for(size: int) -> memoryview:
    """So many bytes, zeros, to be written; they are given back when the last view of them is gone."""
    anonymous = getattr(mmap, "MAP_ANONYMOUS", None)
    if size < _OWN or anonymous is None:
        return memoryview(bytearray(size))
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | anonymous)
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is not None:
        with contextlib.suppress(OSError):  # a kernel built without them: small pages do as well
            memory.madvise(advice)
    return memoryview(memory)
