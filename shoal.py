"""Shoal for other people's code: connect to a fleet, submit jobs, follow events.

    import asyncio, shoal

    async def main() -> None:
        async with await shoal.connect("nats://127.0.0.1:4222") as fleet:
            accepted = await fleet.submit({"kind": "train", "workload": "examples.digits:workload", "rounds": 5})
            async for event in fleet.events(f"shoal.jobs.{accepted.job}.state", past=True):
                print(event)

    asyncio.run(main())

Everything is async and typed; errors are `shoal.ShoalError` and say what to do.
"""

from runners.client import Accepted, Client, Refused, connect, events, submit
from schemas.errors import ShoalError
from schemas.jobs import JobRequest, JobState
from schemas.wire import Message

__all__ = [
    "Accepted",
    "Client",
    "JobRequest",
    "JobState",
    "Message",
    "Refused",
    "ShoalError",
    "connect",
    "events",
    "submit",
]
