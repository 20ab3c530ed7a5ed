"""How much of its time a job process may compute: its node says so in a file, which is read between steps.

A file, because it needs neither the server nor a link that may be down just then: the machine's owner shouldn't wait for
either. Processes already have the least priority that they should (`runners.node_work.NICE`); raising it again would take
privileges, and an idle core computes at full speed and heat whatever the priority. So they rest.
"""

import os
from math import ceil
from pathlib import Path


class Pace:
    """A job process's view of what its node leaves it."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def share(self) -> float:
        """Part of the time that may be computed in, above 0; 1 where nobody says anything else."""
        if self._file is None:
            return 1.0
        try:
            told = float(self._file.read_text())
        except (OSError, ValueError):  # not written, or gone with its node
            return 1.0
        return told if 0.0 < told <= 1.0 else 1.0


def tell(file: Path, share: float) -> None:
    """Let the processes that look into a file compute for a part of the time. Raises `OSError`."""
    if share >= 1.0:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    made = file.with_name(f"{file.name}.new")
    made.write_text(f"{share}")
    os.replace(made, file)


def steps_left(planned: int, done: int, before: float, now: float) -> int:
    """Steps that a local round should have in all once its process is slowed: the rest in proportion, one more at least as
    long as there is a rest. It then ends when it would have."""
    return done + ceil((planned - done) * min(1.0, now / before))
