"""What an exit means, when a job is started again, and how much of its output is passed on."""

import re
import signal
from typing import NamedTuple

from agents.node.settings import NodeAgentSettings
from agents.node.state import JobHere
from agents.node.works import (
    EXIT_BUNDLE,
    EXIT_BUS,
    EXIT_DECLINED,
    EXIT_IMPORT,
    EXIT_MEMORY,
    EXIT_NOT_STARTED,
    EXIT_RAISED,
    OUT_OF_MEMORY_KILL,
)

_MEMORY = re.compile(r"^MemoryError|OutOfMemoryError|CUDA out of memory|can't allocate memory|Cannot allocate memory")

_REFUSED = {EXIT_BUNDLE: "bundle", EXIT_DECLINED: "declined"}
_NO_START = {
    EXIT_BUS: "its process could not reach the server",
    EXIT_NOT_STARTED: "its process could not be started",
}


class Failure(NamedTuple):
    """An exit that should not have been."""

    kind: str
    """As in `WorkFailed.kind`."""
    words: str
    may_pass: bool
    """Whether another start can end otherwise."""


def failure(code: int, last_lines: tuple[str, ...]) -> Failure:
    """What went wrong, by the exit code first and what was printed last second."""
    if code == 0:
        return Failure("start", "it ended by itself while the job goes on", True)
    if code == EXIT_IMPORT:
        return Failure("import", "its workload can't be imported", False)
    if code in _REFUSED:
        return Failure(_REFUSED[code], last_lines[-1] if last_lines else "it can't run the job's code", False)
    if OUT_OF_MEMORY_KILL in last_lines:
        return Failure("out_of_memory", OUT_OF_MEMORY_KILL, True)
    if code == EXIT_MEMORY or any(_MEMORY.search(line) for line in last_lines):
        return Failure("out_of_memory", "out of memory", True)
    if code < 0:
        return Failure("killed", f"killed by {_signal(-code)}", True)
    return Failure(*_by_traceback(code, last_lines), True)


def _by_traceback(code: int, last_lines: tuple[str, ...]) -> tuple[str, str]:
    """Kind and words for an exit of the workload, of Python itself (1), or of something that the workload called."""
    if code == EXIT_RAISED:
        return "raised", "its workload raised"
    if code in _NO_START:
        return "start", _NO_START[code]
    if any(line.startswith("Traceback (most recent call last)") for line in last_lines):
        return "raised", f"raised, exit code {code}"
    return "start", f"ended with exit code {code}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def back_off(failures: int, settings: NodeAgentSettings) -> float:
    """Seconds before the next start after so many failures in a row: exponential."""
    return float(settings.back_off_seconds * 2 ** min(failures - 1, 30))


def admit_lines(
    here: JobHere, lines: tuple[str, ...], now: float, settings: NodeAgentSettings
) -> tuple[tuple[str, ...], int]:
    """The lines that may be passed on now, and how many were left out before them (a token bucket).

    What is left out is counted in `here.log_dropped` and told with the next lines that get through.
    """
    gained = (now - here.log_at) * settings.log_lines_per_second
    here.log_tokens = min(float(settings.log_burst), here.log_tokens + gained)
    here.log_at = now
    count = min(len(lines), int(here.log_tokens))
    here.log_tokens -= count
    dropped = here.log_dropped if count else 0
    here.log_dropped += len(lines) - count - dropped
    return lines[:count], dropped
