"""Bytes that are written in place, and then are `bytes` without another copy."""

import io


class Room:
    """So many bytes, zeros at first."""

    def __init__(self, size: int) -> None:
        """`size` is at least 1."""
        # Of what is in the standard library this alone lets bytes be written in place, and gives them without a copy.
        self._file = io.BytesIO()
        self._file.seek(size - 1)
        self._file.write(b"\0")
        self.memory = self._file.getbuffer()
        """To be written to."""

    def taken(self) -> bytes:
        """What was written; nothing can be written any more, and nobody may look at `memory` any more."""
        self.memory.release()
        return self._file.getvalue()
