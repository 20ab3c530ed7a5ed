"""What a process prints, as lines in batches: at once enough for a person who follows, few enough for a bus."""

import asyncio
import codecs
import re
from asyncio import StreamReader
from collections import deque
from collections.abc import Callable

from agents.inputs import Result, WorkLines

# Seconds from the first line of a batch to its passing on: a person who follows along doesn't notice.
BATCH_SECONDS = 0.5
# Lines of one batch; what is printed beyond in the same half second is counted, not kept.
BATCH_LINES = 500
# Characters of a line; longer ones are data that was printed by mistake.
LINE_LENGTH = 1000
# Lines that are kept for the message of an exit: the end of a traceback, or what a hung process's threads were doing, each
# innermost call first, which is some thirty lines.
TAIL = 50
_CHUNK = 64 * 1024
# A carriage return alone begins a progress bar anew: it ends a line like any other.
_LINE_END = re.compile(r"\r\n|\n|\r")


class ProcessLines:
    """Reads one process's output and posts it as `WorkLines`."""

    def __init__(self, key: str, post: Callable[[Result], None]) -> None:
        self._key = key
        self._post = post
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._batch: list[str] = []
        self._left_out = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def last(self) -> tuple[str, ...]:
        """The last lines so far, blank ones left out."""
        return tuple(self._tail)

    async def read(self, stream: StreamReader) -> None:
        """Until the stream ends; what is not UTF-8 is replaced."""
        decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        rest = ""
        while chunk := await stream.read(_CHUNK):
            *lines, rest = _LINE_END.split(rest + decode(chunk))
            for line in lines:
                self.note(line)
            if len(rest) > LINE_LENGTH:  # a line that never ends must not fill the memory; its beginning is told
                self.note(rest)
                rest = ""
        rest += decode(b"", final=True)
        if rest:
            self.note(rest)

    def note(self, line: str) -> None:
        """One line more."""
        line = line.rstrip()[:LINE_LENGTH]
        if not line:
            return
        self._tail.append(line)
        if len(self._batch) >= BATCH_LINES:
            self._left_out += 1
            return
        self._batch.append(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_SECONDS, self._flush)

    def close(self) -> None:
        """Pass on what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._flush()

    def _flush(self) -> None:
        self._timer = None
        lines, self._batch = self._batch, []
        if self._left_out:
            lines.append(f"[{self._left_out} lines left out: printed faster than they can be passed on]")
            self._left_out = 0
        self._post(WorkLines(key=self._key, lines=tuple(lines)))
