"""The desk's end of a run of Shoal, inside the coordinator's namespace: submits the job and tells what is said of it.

Standard input: the job's request as a line of JSON, then a line for its cancelling. Standard output, a line of JSON each:
`{"type": "Joined"}` once all nodes are there, then every event of the job; it ends with the job's report.
"""

import argparse
import asyncio
import json
import sys
from typing import Any

import msgspec

from runners.client import Client, connect
from runners.loop import run
from schemas.jobs import JobState, ReportReady
from schemas.nodes import NodeHeartbeat
from schemas.wire import Message

REPORT_WITHIN = 20.0  # seconds from a job's end: the recorder writes a report in one


def say(kind: str, fields: dict[str, Any]) -> None:
    """One line to the driver."""
    sys.stdout.write(json.dumps({"type": kind, **fields}) + "\n")
    sys.stdout.flush()


async def joined(client: Client, count: int) -> None:
    """Returns once so many nodes beat."""
    nodes: set[str] = set()
    async for event in client.events("shoal.nodes.*.heartbeat"):
        if isinstance(event, NodeHeartbeat):
            nodes.add(event.node)
        if len(nodes) >= count:
            return


async def tell(client: Client, job: str) -> None:
    """All events of a job until its report is stored, or might have been."""
    events = client.events(f"shoal.training.{job}.>", f"shoal.jobs.{job}.>", past=True)
    try:
        async with asyncio.timeout(None) as patience:
            async for event in events:
                say(type(event).__name__, fields_of(event))
                if isinstance(event, JobState) and event.state.ended:
                    patience.reschedule(asyncio.get_running_loop().time() + REPORT_WITHIN)
                if isinstance(event, ReportReady):
                    return
    except TimeoutError:
        return


def fields_of(event: Message) -> dict[str, Any]:
    """An event's fields as they are in JSON."""
    fields: dict[str, Any] = msgspec.to_builtins(event)
    return fields


async def attend(server: str, count: int) -> None:
    """The whole run."""
    async with await connect(server, name="bench") as client:
        await joined(client, count)
        say("Joined", {})
        request = json.loads(await asyncio.to_thread(sys.stdin.readline))
        telling = asyncio.ensure_future(tell(client, request["id"]))
        await client.submit(request)

        async def cancel_when_told() -> None:
            if await asyncio.to_thread(sys.stdin.readline):
                await client.cancel(request["id"], "the benchmark's time is over")

        cancelling = asyncio.ensure_future(cancel_when_told())
        await telling
        cancelling.cancel()


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True)
    parser.add_argument("--nodes", type=int, required=True)
    asked = parser.parse_args()
    run(attend(asked.server, asked.nodes))


if __name__ == "__main__":
    main()
