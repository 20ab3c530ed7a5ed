"""TLS both ways over loopback: the private authority, wrong ones, and new certificates under running connections."""

import asyncio
import ssl
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("cryptography")

from bus.credentials import Credentials, read_secret, write_credentials
from bus.nats_link import Link, LinkState
from bus.port import Unreachable
from bus.tensor_lane import Lane
from runners.members import authority, renewing
from runners.members.authority import Authority, BadCertificateKey, ends, is_due, new_pair
from runners.members.invitation import invitation_in
from runners.members.joining import join
from runners.members.renewing import renew_if_due
from tests.runners.members.fleet import PATIENCE, member_fleet


async def served_certificate(host: str, port: int, context: ssl.SSLContext) -> bytes:
    """What the server shows to a new connection."""
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        await reader.readline()
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert isinstance(shown, bytes)
        return shown
    finally:
        writer.close()


async def test_certificates_are_renewed_under_running_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with member_fleet(tmp_path / "host", tls=True) as fleet:
        path, _ = await join(await fleet.invite(name="laptop"), tmp_path / "laptop")
        states, back = list[LinkState](), asyncio.Event()

        def changed(state: LinkState, reason: str) -> None:
            states.append(state)
            if state is LinkState.BACK:
                back.set()

        node = await fleet.connect(path, "node/laptop", changed)
        lane = Lane(fleet.server.url, "lane", path)
        await lane.open()
        context, port = fleet.membership.security.tls, fleet.server.ports.nats
        assert context is not None
        before = await served_certificate("127.0.0.1", port, context())

        await fleet.membership.renew()
        assert await served_certificate("127.0.0.1", port, context()) != before
        assert await node.round_trip(PATIENCE) is not None
        assert await lane.barrier(PATIENCE)
        assert states == []

        held = read_secret(path)
        assert isinstance(held, Credentials)
        assert not await renew_if_due(node, path)  # it is new
        end = ends(held.certificate)
        assert end is not None
        monkeypatch.setattr(renewing.time, "time", lambda: end - authority.LIFETIME / 2)
        assert await renew_if_due(node, path)
        renewed = read_secret(path)
        assert isinstance(renewed, Credentials)
        assert renewed.certificate != held.certificate
        assert renewed.seed == held.seed
        await fleet.server.restart()  # both come back with the newest
        async with asyncio.timeout(PATIENCE):
            await lane.wait_up(PATIENCE)
            await back.wait()
        await lane.close()
        await node.close()


async def test_wrong_authorities_and_missing_certificates_are_refused(tmp_path: Path) -> None:
    async with member_fleet(tmp_path / "host", tls=True) as fleet:
        line = await fleet.invite(name="laptop")
        assert invitation_in(line).authority
        path, held = await join(line, tmp_path / "laptop")
        others = Authority(tmp_path / "others", ())
        wrong, key = others.issue("laptop")
        for what, bad in {
            "a server that another authority vouches for": msgspec.structs.replace(held, authority=others.pem),
            "a client that another authority vouches for": msgspec.structs.replace(
                held, certificate=wrong, certificate_key=key
            ),
            "no certificate": msgspec.structs.replace(held, certificate="", certificate_key=""),
        }.items():
            write_credentials(path, bad)
            link = Link(fleet.server.url, what, path, None)
            with pytest.raises(Unreachable):
                await link.open()
            with pytest.raises(Unreachable):
                await Lane(fleet.server.url, what, path).open()
        reader, writer = await asyncio.open_connection("127.0.0.1", fleet.server.ports.nats)
        writer.write(b'CONNECT {"verbose": false}\r\nPING\r\n')  # in the clear
        async with asyncio.timeout(PATIENCE):
            assert b"PONG" not in await reader.read()
        writer.close()
        write_credentials(path, held)
        good = Lane(fleet.server.url, "good", path)
        await good.open()
        await good.close()


def test_only_keys_are_certified_and_only_in_time(tmp_path: Path) -> None:
    made = Authority(tmp_path, ("192.0.2.7", "box.local"))
    for nonsense in ("", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        with pytest.raises(BadCertificateKey):
            made.check(nonsense)
    _, public = new_pair()
    end = ends(made.certify(public, "laptop"))
    assert end is not None
    assert is_due("", 0.0)
    certificate = made.certify(public, "laptop")
    assert not is_due(certificate, end - authority.LIFETIME * 0.9)
    assert is_due(certificate, end - authority.LIFETIME * 0.5)
    assert (tmp_path / "tls" / "authority.key").stat().st_mode & 0o077 == 0
    assert Authority(tmp_path, ()).pem == made.pem
