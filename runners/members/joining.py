"""Joining a fleet with an invitation's line: a key made here, of which only the public half leaves."""

import asyncio
import contextlib
from pathlib import Path

import msgspec
from nats import errors

from bus.credentials import Credentials, write_credentials
from bus.nats_link import Link, LinkState
from bus.nkeys import KeyPair
from bus.port import Unreachable
from runners.bundles.trust import trust
from runners.members.files import member_file
from runners.members.invitation import Invitation, invitation_in
from schemas.errors import FAULTS, ShoalError
from schemas.members import EnrolAnswer, EnrolRequest, Role
from schemas.wire import encode, wire_of

_OVER_WITHIN = 10.0  # seconds for the server to end a used invitation's connection; the new key is good before that, too
_ANSWER_WITHIN = 30.0  # seconds: the server reads its members anew before the answer, over a bad link


class NotEnrolled(ShoalError):
    """The fleet doesn't take this machine. Attribute: `why`."""

    def __init__(self, why: str) -> None:
        super().__init__(f"not taken in: {why}")
        self.why = why


async def join(line: str, store: Path, wanted: str | None = None) -> tuple[Path, Credentials]:
    """Become a member: (the file with the credentials, the credentials).

    Args:
        line: of `shoal invite`.
        store: Shoal's directory on this machine.
        wanted: the name to go by, where the invitation leaves it open.

    Raises:
        BadInvitation: not such a line.
        Unreachable: no server there, or it refuses the invitation: used already, ended or revoked.
        NotEnrolled: the fleet has another reason.
    """
    invitation = invitation_in(line)
    pair = KeyPair.generate()
    work = KeyPair.generate() if invitation.role is Role.NODE else None
    private, public = _certificate_pair() if invitation.authority else ("", None)
    request = EnrolRequest(
        name=invitation.name,
        key=pair.public,
        work_key=work.public if work is not None else None,
        wanted=invitation.wanted or wanted,
        certificate_key=public,
    )
    answer = await _ask(invitation, request)
    if not answer.accepted or answer.role is None or answer.name is None:
        raise NotEnrolled(answer.reason or "the server gives no reason")
    credentials = Credentials(
        role=answer.role.value,
        name=answer.name,
        seed=pair.seed,
        work_seed=work.seed if work is not None else "",
        server=invitation.server,
        authority=invitation.authority,
        certificate=answer.certificate or "",
        certificate_key=private if answer.certificate else "",
    )
    path = member_file(store, answer.name)
    write_credentials(path, credentials)
    if answer.role is Role.NODE and invitation.signer:
        trust(store, invitation.signer, "the fleet's host")
    return path, credentials


async def _ask(invitation: Invitation, request: EnrolRequest) -> EnrolAnswer:
    over = asyncio.Event()

    def changed(state: LinkState, reason: str) -> None:
        if state is LinkState.LOST:
            over.set()

    link = Link(invitation.server, invitation.name, invitation.credentials(), changed)
    await link.open()
    try:
        subject = wire_of(EnrolRequest).subject_of(request)
        answer = msgspec.json.decode(await link.request(subject, encode(request), _ANSWER_WITHIN), type=EnrolAnswer)
        if answer.accepted:
            # The server now takes the invitation's key out, and lets go of whoever is greeting it just then: the new member
            # connects after that.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_OVER_WITHIN):
                    await over.wait()
        return answer
    except errors.NoRespondersError:
        raise Unreachable(f"nobody enrols at {link.address}: is its `shoal up` running?") from None
    except (TimeoutError, errors.Error, *FAULTS) as error:
        raise Unreachable(f"{link.address} gave no answer ({error}): ask for another invitation") from error
    finally:
        await link.close()


def _certificate_pair() -> tuple[str, str]:
    from runners.members.authority import new_pair

    return new_pair()
