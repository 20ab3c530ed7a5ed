"""Invitations, enrolment and revocation, with the real server."""

import asyncio
import stat
import time
from pathlib import Path

import msgspec
import pytest

from bus.credentials import Credentials, read_secret, write_credentials
from bus.nats_link import LinkState
from bus.port import Interest, Unreachable
from runners.members.audit import faults_in
from runners.members.invitation import BadInvitation, invitation_in, line_of
from runners.members.joining import NotEnrolled, join
from schemas.errors import ShoalError
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
from tests.runners.members.fleet import PATIENCE, MemberFleet, member_fleet


async def audited(fleet: MemberFleet) -> list[AuditEntry]:
    found = [entry async for entry in fleet.operator.history([Interest(AuditEntry)])]
    return [entry for entry in found if isinstance(entry, AuditEntry)]


async def test_a_line_lets_one_node_in_once_and_a_revocation_ends_it(tmp_path: Path) -> None:
    async with member_fleet(tmp_path / "host") as fleet:
        line = await fleet.invite()
        path, held = await join(line, tmp_path / "laptop", "laptop")
        assert (held.role, held.name) == ("node", "laptop")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert invitation_in(line).seed != held.seed
        register = (tmp_path / "host" / "members" / "register.json").read_text()
        assert held.seed not in register
        work = held.for_work()  # for the processes that it runs for jobs
        assert work is not None
        assert (work.role, work.name, work.work_seed) == ("work", "laptop+work", "")
        assert held.seed not in (work.seed, register)

        with pytest.raises((Unreachable, NotEnrolled), match=r"invit"):
            await join(line, tmp_path / "thief", "thief")
        assert not (tmp_path / "thief").exists()

        lost, refused = asyncio.Event(), asyncio.Event()

        def changed(state: LinkState, reason: str) -> None:
            (lost if state is LinkState.LOST else refused if state is LinkState.REFUSED else asyncio.Event()).set()

        node = await fleet.connect(path, "node/laptop", changed)
        lesser = tmp_path / "work.json"
        write_credentials(lesser, work)
        process = await fleet.connect(lesser, "trainer/j/laptop")
        await process.put_object("j/checkpoint", b"learnt")
        assert await node.get_object("j/checkpoint") == b"learnt"
        answer = await fleet.ask(RevokeRequest(name="laptop", reason="sold"), RevokeAnswer)
        assert answer.accepted
        async with asyncio.timeout(PATIENCE):
            await lost.wait()
            await refused.wait()  # it tries to come back, and is not let in
        with pytest.raises(Unreachable):
            await fleet.connect(lesser, "trainer/j/laptop")
        await node.close()
        await process.close()
        with pytest.raises(Unreachable, match="refused"):
            await fleet.connect(path, "node/laptop")
        assert (await fleet.states())["laptop"] == "revoked"

        # It can come back only if an operator names it, with another key.
        with pytest.raises(NotEnrolled, match="revoked"):
            await join(await fleet.invite(), tmp_path / "laptop", "laptop")
        _, again = await join(await fleet.invite(name="laptop"), tmp_path / "laptop")
        assert again.seed != held.seed

        acts = [(entry.act, entry.target) for entry in await audited(fleet)]
        assert ("enrol", "laptop") in acts
        assert ("revoke", "laptop") in acts


async def test_an_invitation_is_for_its_role_its_name_and_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with member_fleet(tmp_path / "host") as fleet:
        line = await fleet.invite(role=Role.DASHBOARD, name="wall")
        _, held = await join(line, tmp_path / "a", "another")
        assert (held.role, held.name) == ("dashboard", "wall")

        taken = await fleet.ask(InviteRequest(name="wall"), InviteAnswer)
        assert (taken.accepted, taken.field) == (False, "$.name")
        agent = await fleet.ask(InviteRequest(role=Role.AGENT), InviteAnswer)
        assert (agent.accepted, agent.field) == (False, "$.role")
        with pytest.raises(NotEnrolled, match="taken"):
            await join(await fleet.invite(), tmp_path / "b", "job_desk")

        late = await fleet.invite()
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3601)
        with pytest.raises((NotEnrolled, Unreachable), match=r"ended|refused"):
            await join(late, tmp_path / "c", "late")
        await fleet.invite()
        assert "late" not in await fleet.states()


async def test_who_belongs_outlives_the_server(tmp_path: Path) -> None:
    async with member_fleet(tmp_path / "host") as fleet:
        path, _ = await join(await fleet.invite(), tmp_path / "laptop", "laptop")
    async with member_fleet(tmp_path / "host") as fleet:
        node = await fleet.connect(path, "node/laptop")
        assert await node.round_trip(PATIENCE) is not None
        await node.close()
        known = await fleet.ask(MembersRequest(), MembersAnswer)
        assert faults_in(await audited(fleet), known.entries, known.digest) == []


async def test_only_operators_let_others_in(tmp_path: Path) -> None:
    async with member_fleet(tmp_path / "host") as fleet:
        path, _ = await join(await fleet.invite(role=Role.SUBMITTER), tmp_path / "ann", "ann")
        ann = await fleet.connect(path, "ann")
        with pytest.raises(ShoalError):
            await ann.request("shoal.members.invite", b"{}", 0.3)
        await ann.close()
        for nobody in ("nobody", "job_desk", "operator"):
            answer = await fleet.ask(RevokeRequest(name=nobody), RevokeAnswer)
            assert not answer.accepted


def test_a_line_that_was_cut_off_is_told_from_a_whole_one() -> None:
    with pytest.raises(BadInvitation):
        invitation_in("shoal-join:eyJzZXJ2ZXIi")
    with pytest.raises(BadInvitation):
        invitation_in("hello")


def test_secrets_are_in_no_traceback() -> None:
    assert "SU" not in repr(Credentials(role="node", name="laptop", seed="SUSECRET"))


def test_a_chain_shows_what_was_changed_left_out_or_cut_off() -> None:
    from runners.members.register import Known, Register

    register, entries = Register(), []
    for number in range(4):
        register.invite(Known(name=f"i-{number}", role=Role.NODE, key="", since=1.0, until=9.0), "operator")
    while (entry := register.next_entry()) is not None:
        entries.append(entry)
        register.told(entry)
    whole = (register.number, register.digest)
    assert faults_in(entries, *whole) == []
    assert faults_in(entries[2:], *whole) == []  # the oldest have had their time
    assert "changed" in faults_in([msgspec.structs.replace(entries[0], by="nobody"), *entries[1:]], *whole)[0]
    assert "missing" in faults_in([entries[0], *entries[2:]], *whole)[0]
    assert "cut off" in faults_in(entries[:-1], *whole)[0]
    assert "gone" in faults_in([], *whole)[0]


def test_a_line_holds_what_it_was_made_of() -> None:
    from runners.members.invitation import Invitation

    made = Invitation(server="nats://10.0.0.7:4222", name="i-1", seed="SU", role=Role.NODE, until=1.0)
    assert invitation_in(line_of(made)) == made


def test_a_file_with_credentials_or_a_token(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("a-token\n")
    assert read_secret(path) == "a-token"
    path.write_text("{}")
    with pytest.raises(ShoalError, match="join again"):
        read_secret(path)
