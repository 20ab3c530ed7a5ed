"""A member's certificate, renewed in time: a new pair made here, certified by the fleet, used at the next connection."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bus.credentials import Credentials, Secret, read_secret, write_credentials
from bus.nats import NatsBus
from bus.port import BusError
from schemas.errors import FAULTS, ShoalError
from schemas.members import EnrolAnswer, RenewRequest
from schemas.wire import encode, wire_of

_ANSWER_WITHIN = 30.0  # seconds
_LOOK_AGAIN = 3600.0  # seconds between looks at the wall clock: a certificate has weeks left when it is due


async def renew_if_due(bus: NatsBus, secret: Secret) -> bool:
    """Have a new certificate if it is time for one; whether there is one. Who can't be asked now is asked another time."""
    held = read_secret(secret) if isinstance(secret, Path) else None
    if not isinstance(secret, Path) or not isinstance(held, Credentials) or not held.certificate:
        return False
    from runners.members.authority import is_due, new_pair  # only where there is TLS is its package needed

    if not is_due(held.certificate, time.time()):
        return False
    private, public = new_pair()
    request = RenewRequest(name=held.name, certificate_key=public)
    try:
        said = await bus.request(wire_of(RenewRequest).subject_of(request), encode(request), _ANSWER_WITHIN)
        answer = msgspec.json.decode(said, type=EnrolAnswer)
    except (BusError, *FAULTS):
        return False
    if not answer.accepted or answer.certificate is None:
        return False
    write_credentials(secret, msgspec.structs.replace(held, certificate=answer.certificate, certificate_key=private))
    return True


async def keep_certified(bus: NatsBus, secret: Secret, renewed: Callable[[], object] = lambda: None) -> None:
    """Renew whenever it is time, and say so, until cancelled; at once over where there is no certificate."""
    held = read_secret(secret) if isinstance(secret, Path) else None
    while isinstance(held, Credentials) and held.certificate:
        # A full disk, or a file that can't be read: the old certificate is good for weeks.
        with contextlib.suppress(ShoalError, OSError):
            if await renew_if_due(bus, secret):
                renewed()
        await asyncio.sleep(_LOOK_AGAIN)
