"""Commands about who belongs to a fleet: invite, join, revoke, members, audit."""

import datetime
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from bus.port import Interest, NoResponders
from runners.cli.common import (
    DEFAULT_STORE,
    EXIT_FAILED,
    EXIT_USAGE,
    MACHINES,
    JsonOption,
    ServerOption,
    StoreOption,
    console,
    example,
    fail,
    joined,
    print_json,
    run_async,
)
from runners.client import Client
from schemas.members import (
    AuditEntry,
    InviteAnswer,
    InviteRequest,
    MembersAnswer,
    MembersRequest,
    RevokeAnswer,
    RevokeRequest,
    Role,
)
from schemas.wire import Request, encode, wire_of

_ANSWER_WITHIN = 30.0  # seconds: the server reads its members anew before the answer
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}  # seconds

A = TypeVar("A")


def invite(
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="node, submitter, dashboard or operator.")] = "node",
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Whom it is for; by default whoever joins says it.")
    ] = None,
    ttl: Annotated[str, typer.Option("--ttl", metavar="TIME", help="How long it can be used: 90s, 30m, 1h, 2d.")] = "1h",
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Print a line that lets one machine or person into a fleet, once.

    For fleets started with `shoal up --secure`. The line is a secret until it is used, and worthless after.
    """
    roles = [one.value for one in Role if one is not Role.AGENT]
    if role not in roles:
        fail(f"no role is named {role!r}: there are {', '.join(roles)}", EXIT_USAGE)
    request = InviteRequest(role=Role(role), name=name, seconds=_seconds(ttl))

    async def work() -> InviteAnswer:
        async with await joined(server, store) as client:
            return await _asked(client, request, InviteAnswer)

    answer = run_async(work())
    if not answer.accepted or answer.line is None:
        fail(f"{answer.field}: {answer.reason}")
    if as_json:
        print_json(answer)
    else:
        print(answer.line)


def join(
    line: Annotated[str, typer.Argument(metavar="LINE", envvar="SHOAL_JOIN", help="As `shoal invite` printed it.")],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Yours, if the line names nobody.")] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Use an invitation's line: from then on, commands in this directory speak to that fleet.

    The key is made here and never leaves this machine. For a node, `shoal node --join LINE` does this and starts it.
    """
    from runners.members.joining import join as join_fleet

    path, credentials = run_async(join_fleet(line, store, name))
    console.print(f"joined as {credentials.role} {credentials.name}; kept in {path}", markup=False, soft_wrap=True)


def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A member's, or an invitation's: see `shoal members`.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="For the audit.")] = "",
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Put a member out for good; when this returns, its connections are closed."""
    request = RevokeRequest(name=name, reason=reason)

    async def work() -> RevokeAnswer:
        async with await joined(server, store) as client:
            return await _asked(client, request, RevokeAnswer)

    answer = run_async(work())
    if not answer.accepted:
        fail(f"{answer.reason}")
    console.print(f"{name} is out, and its connections are closed", markup=False)


def members(server: ServerOption = None, store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """List who belongs to the fleet, who is invited, and who was put out."""

    async def work() -> MembersAnswer:
        async with await joined(server, store) as client:
            return await _asked(client, MembersRequest(), MembersAnswer)

    answer = run_async(work())
    if as_json:
        print_json(answer.members)
        return
    table = Table("name", "role", "state", "since", "until", box=None)
    for one in answer.members:
        until = _when(one.until) if one.until is not None else ""
        table.add_row(escape(one.name), one.role.value, one.state, _when(one.since), until)
    console.print(table)


def audit(
    verify: Annotated[bool, typer.Option("--verify", help="Check the chain; exit code 1 if anything was changed.")] = False,
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Show what administrators did: who invited, enrolled, revoked, cancelled, paused or changed settings."""

    async def work() -> tuple[list[AuditEntry], MembersAnswer | None]:
        async with await joined(server, store) as client:
            known = await _asked(client, MembersRequest(), MembersAnswer) if verify else None
            found = [entry async for entry in client.bus.history([Interest(AuditEntry)])]
            return [entry for entry in found if isinstance(entry, AuditEntry)], known

    entries, known = run_async(work())
    if known is not None:
        from runners.members.audit import faults_in

        faults = faults_in(entries, known.entries, known.digest)
        for fault in faults:
            console.print(fault, markup=False, soft_wrap=True)
        if faults:
            raise typer.Exit(EXIT_FAILED)
        console.print(f"{len(entries)} entries, each as it was written, up to number {known.entries}", markup=False)
        return
    if as_json:
        print_json(entries)
        return
    table = Table("number", "when", "act", "by", "whom", "why", box=None)
    for entry in entries:
        columns = (entry.act, entry.by, entry.target, entry.reason)
        table.add_row(str(entry.number), _when(entry.when), *(escape(text) for text in columns))
    console.print(table)


async def _asked(client: Client, request: Request, answer: type[A]) -> A:
    try:
        subject = wire_of(type(request)).subject_of(request)
        said = await client.bus.request(subject, encode(request), _ANSWER_WITHIN)
    except NoResponders:
        fail("this fleet has no members, but a token or nothing: start it with `shoal up --secure`")
    return msgspec.json.decode(said, type=answer)


def _seconds(text: str) -> float:
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        return float(number) * _UNITS[unit]
    except ValueError:
        fail(f"{text!r} is no time: write 90s, 30m, 1h or 2d", EXIT_USAGE)


def _when(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the app."""
    commands = (
        (invite, ("shoal invite", "shoal invite --name attic --ttl 30m", "shoal invite --role dashboard --name wall")),
        (join, ("shoal join shoal-join:eyJzZXJ2...",)),
        (revoke, ("shoal revoke attic", "shoal revoke laptop --reason 'sold it'")),
        (members, ("shoal members", "shoal members --json")),
        (audit, ("shoal audit", "shoal audit --verify")),
    )
    for command, lines in commands:
        app.command(rich_help_panel=MACHINES, epilog=example(*lines))(command)
