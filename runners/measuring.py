"""How a node's process has itself measured: in a child with torch in it, ended when its time is up."""

import asyncio
import os
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import msgspec

from agents.node.works import MeasuringWork
from bus import processes
from runners.jobs.measuring import MeasuringSpec
from runners.jobs.spec import JobSpec
from runners.process_group import ProcessGroup
from schemas.errors import FAULTS
from schemas.measuring import NodeMeasured

SAID = 2000  # characters of a child's last words that are looked at


async def measured(
    argv: tuple[str, ...], job: JobSpec, work: MeasuringWork, *, folder: Path, env: dict[str, str], nice: int
) -> NodeMeasured:
    """What the child found, or why it found nothing. Cancelled, it takes the child along."""
    folder.mkdir(parents=True, exist_ok=True)
    told, result, part = (folder / f"measure-{os.getpid()}-{work.ticket}.{kind}" for kind in ("spec", "json", "part"))
    spec = MeasuringSpec(ticket=work.ticket, job=job, streams=work.streams, seconds=work.seconds, result=str(result))
    found = NodeMeasured(node=job.node, ticket=work.ticket)
    try:
        told.write_bytes(msgspec.json.encode(spec))
        problem = await _run((*argv, "--spec", str(told)), work.seconds, env, nice)
        if result.exists():
            found = msgspec.json.decode(result.read_bytes(), type=NodeMeasured)
        elif not problem:
            problem = "its measurement ended without a result"
    except (OSError, *FAULTS) as error:
        problem = f"it could not be measured: {error}"
    finally:
        for path in (told, result, part):
            path.unlink(missing_ok=True)
    return msgspec.structs.replace(found, problem="; ".join(text for text in (found.problem, problem) if text))


async def _run(argv: tuple[str, ...], seconds: float, env: dict[str, str], nice: int) -> str:
    """What went wrong, in words; empty if nothing did."""
    process = await processes.spawn(argv, env=env, inherit=False, stdout=DEVNULL, stderr=PIPE, nice=nice, new_session=True)
    group = ProcessGroup(process)
    assert process.stderr is not None
    saying = asyncio.ensure_future(process.stderr.read())
    try:
        async with asyncio.timeout(seconds):
            await group.ended()
    except TimeoutError:
        return f"it took longer than {seconds:.0f} s and was given up: give it more with --seconds"
    finally:
        group.kill()
        said = await saying
        code = await process.wait()
        group.close()
    if code == 0:
        return ""
    lines = said[-SAID:].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else processes.describe_exit(code)
