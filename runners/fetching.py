"""Brings a job's model, report and loss curve to this machine."""

import asyncio
import contextlib
from pathlib import Path

import msgspec

from runners.client import Client
from runners.jobs.names import checkpoint_name, model_name, report_name
from schemas.errors import ShoalError

REPORT_WITHIN = 30.0  # seconds for the recorder to write a report after its job's end; it takes one


class NothingToFetch(ShoalError):
    """A job that left nothing. Attribute: `job`."""

    def __init__(self, job: str, why: str) -> None:
        super().__init__(f"nothing to fetch of job {job}: {why}")
        self.job = job


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """What was fetched, and what there was not."""

    job: str
    files: tuple[Path, ...]
    missing: tuple[str, ...] = ()


async def fetch_job(client: Client, job: str, out: Path) -> Fetched:
    """Write `model.safetensors`, `report.json` and `loss.png` into `out/JOB/`; of a job under way, its last checkpoint.

    Raises:
        NothingToFetch: there is no such job, or it has stored nothing yet.
    """
    where = out / job
    files: list[Path] = []
    missing: list[str] = []
    for name in (model_name(job), report_name(job)):
        data = await _object(client, name)
        if data is None:
            missing.append(f"no {name.rpartition('/')[2]} (yet)")
            continue
        files.append(_write(where / name.rpartition("/")[2], data))
    if not any(file.name == "model.safetensors" for file in files):
        data = await _object(client, checkpoint_name(job))
        if data is not None:
            files.append(_write(where / "checkpoint.safetensors", data))
    if not files:
        state = await client.state(job)
        raise NothingToFetch(
            job, f"it is {state.state.value}: {state.reason}" if state else "no such job; `shoal jobs` lists them"
        )
    if (where / "report.json") in files:
        from runners.plots import draw_loss

        files.append(draw_loss(where / "report.json", where / "loss.png"))
    return Fetched(job=job, files=tuple(files), missing=tuple(missing))


async def fetch_ended(client: Client, job: str, out: Path) -> Fetched:
    """As `fetch_job`, of a job that has just ended: its report is waited for. Raises as `fetch_job`."""
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(REPORT_WITHIN),
            contextlib.aclosing(client.events(f"shoal.jobs.{job}.report", past=True)) as reports,
        ):
            await anext(reports)
    return await fetch_job(client, job, out)


async def _object(client: Client, name: str) -> bytes | None:
    try:
        return await client.bus.get_object(name)
    except KeyError:
        return None


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
    return path
