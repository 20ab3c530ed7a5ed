"""What a job's process gets of its node's machine, as its owner says; and the folder that it has while it runs."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from agents.node.limits import JobLimits
from runners.jobs.bounds import Bounds

GIGA = 10**9
HOUR = 3600
CREDENTIALS = ("SHOAL_CREDENTIALS", "SHOAL_JOIN", "SHOAL_SERVER", "SHOAL_TOKEN")
"""Variables that may hold the node's own."""
_PORT = 4222  # of a nats:// URL that names none


@dataclass(frozen=True, kw_only=True)
class Bounding:
    """What all job processes of a node have in common."""

    limits: JobLimits = field(default_factory=JobLimits)
    in_site: bool = False
    """Whether they average with neighbours, who listen on any port."""

    def bounds(
        self, server: str, scratch: Path, code: Path | None, *, brought: bool, also: tuple[Path, ...] = ()
    ) -> Bounds:
        """Those of one process.

        Args:
            server: the server's URL or URLs, as the process reaches it.
            scratch: its own folder, which is there if the result says `confined`.
            code: where its workload is looked for.
            brought: whether the job brought that code.
            also: what else it has to read.
        """
        limits = self.limits
        readable = (*limits.read, *([str(code)] if code else []), *map(str, also))
        confined = limits.confine == "all" or (limits.confine == "bundles" and brought)
        return Bounds(
            confined=confined,
            read=readable,
            scratch=str(scratch),
            ports=None if self.in_site else tuple(sorted(set(_ports(server)))),
            shared_memory=self.in_site,
            memory_bytes=_whole(limits.memory_gb, GIGA),
            cpu_seconds=_whole(limits.cpu_hours, HOUR),
            file_bytes=_whole(limits.file_gb, GIGA),
            environment=self._environment(confined),
        )

    def _environment(self, confined: bool) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if name not in CREDENTIALS}
        return {name: own[name] for name in self.limits.environment if name in own} if confined else own


def _ports(server: str) -> Iterator[int]:
    for url in server.split(","):
        yield urlsplit(url.strip()).port or _PORT


def _whole(amount: float | None, unit: int) -> int | None:
    return None if amount is None else max(1, round(amount * unit))


def make_scratch(folder: Path) -> None:
    """The folder of one process, for this user alone; what an earlier one left there is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)


async def remove_scratch(folder: Path) -> None:
    """It may hold much, and be on a slow disk."""
    if folder.exists():
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
