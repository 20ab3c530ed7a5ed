"""What fuzzing found, kept: these bytes once ended a process, a connection's reader or a command with a traceback."""

import asyncio
from pathlib import Path
from random import Random
from typing import Any, cast

import msgspec
import pytest
import torch

from bus.credentials import BadCredentials, read_secret
from bus.nats_pull import coordinates
from bus.port import BusError
from bus.server_config import last_url
from bus.tensor_frames import Kept, number_in
from bus.tensor_incoming import Inbox
from bus.tensor_outgoing import Ask, Outbox
from bus.tensor_wire import Connection
from runners.bundles.content import unpack
from runners.bundles.errors import BundleError
from runners.bundles.trust import TRUST_FILE, trusted
from runners.job_file import BadJobFile, read_job_file
from runners.jobs.snapshots import SnapshotError, snapshot_from_bytes
from runners.jobs.tensor_file import entries_of
from runners.journal import Life, framed, frames_in
from runners.members.files import BadRegister, load_register
from runners.settings import FILE, BadSettings, load_settings
from runners.simulation.cases import BadCase, load
from runners.toml_file import MOST_BYTES
from runners.undo import unpack_random

NOT_UTF_8 = b'{"seed": "\xff\xfe", "digest": "\xff\xfe"}'
DEEP = 20_000


@pytest.mark.parametrize("reply", ["", "a.b", "$JS.ACK.S.c.x.1.2.3.4", "$JS.ACK.S.c." + "9" * 5000 + ".1.2.3.4"])
def test_a_reply_subject_that_is_no_place_in_a_stream(reply: str) -> None:
    with pytest.raises(BusError, match="somebody else"):
        coordinates(reply)


@pytest.mark.parametrize("word", ["²", "٣", "", "-1", "1_0", " 1", "9" * 21])
def test_offsets_in_digits_of_other_scripts_are_none(word: str) -> None:
    assert number_in(word) == -1
    assert number_in("18446744073709551615") == 2**64 - 1


class Silent:
    """In place of the lanes and their control connection."""

    def __init__(self) -> None:
        self.control = self
        self.lanes, self.on_back = [None], []

    def post(self, subject: str, data: bytes = b"", reply: str = "") -> None:
        """Nobody hears it."""


async def test_tiny_tensors_that_nobody_asked_for_are_as_many_as_there_is_room_for() -> None:
    inbox = Inbox(cast(Any, Silent()), "j", "me", 1024 * 1024, lambda incoming: None)
    chunk = b"".join(Kept("delta", "x", b"1").frame(0))
    for number in range(1100):
        inbox._broadcast(f"tensor.j.n.delta.t{number}.0.0", memoryview(chunk), 0)
    assert len(inbox._incoming) <= 1024
    assert inbox.evicted == 1100 - len(inbox._incoming)
    inbox._broadcast("tensor.j.n.delta.none.0.0", memoryview(chunk[:4] + bytes(8) + chunk[12:]), 0)
    assert ("n", "delta", "none") not in inbox._incoming, "a tensor of no bytes has no chunks"
    inbox.close()


async def test_a_request_for_tensors_gets_no_more_than_there_is() -> None:
    sent: list[int] = []

    class Counting(Silent):
        async def send(self, indexes: Any, send: Any, end: str, nobody: str = "") -> int:
            sent.append(len(list(indexes)))
            return 1

    outbox = Outbox(cast(Any, Counting()), "j", "me", lambda size, seconds, lanes: None)
    outbox.keep("delta", "r1", bytes(100_000))
    ask = Ask(op="get", kind="delta", name="r1", to="n", token="t", chunks=[(0, 2**62)] * 1000)
    for _ in range(300):
        assert outbox._answer(ask).found
    assert (len(outbox._serving), outbox.put_off) == (256, 44)
    await asyncio.gather(*outbox._serving)
    assert set(sent) == {7}
    outbox.close()


class Transport:
    """Takes what is written, and whether it was ended."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing is buffered."""


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a 1 99999999999999\r\n",
        b"INFO " + b"[" * 12_000 + b"\r\n",
        b"INFO 17\r\n",
        b"HMSG a 1 9 8\r\n",
        b"MSG a 1 -2\r\n",
    ],
)
async def test_a_server_that_says_what_cannot_be_is_left(line: bytes) -> None:
    transport = Transport()
    connection = Connection({}, lambda ended: None, 1024)
    connection.connection_made(cast(asyncio.BaseTransport, transport))
    room = connection.get_buffer(-1)
    room[: len(line)] = line
    room.release()
    connection.buffer_updated(len(line))
    assert transport.aborted
    assert "NATS" in connection.error


def file_of(header: bytes, rest: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    return len(header).to_bytes(8, "little") + header + rest


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, -Infinity]}}',
        b'{"a": ' + b"[" * DEEP,
        b'{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
        b"[1]",
    ],
)
def test_tensors_in_a_header_that_is_none(header: bytes) -> None:
    with pytest.raises(ValueError, match="safetensors"):
        entries_of(file_of(header, bytes(4)))
    with pytest.raises(SnapshotError):
        snapshot_from_bytes(file_of(header, bytes(4)))


def test_an_empty_tensor_is_read_whatever_its_shape() -> None:
    data = file_of(b'{"a": {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]}}')
    assert entries_of(data)["a"].of(data).shape == torch.Size((0, 3))


def test_a_bundle_whose_sizes_no_number_holds() -> None:
    with pytest.raises(BundleError, match="disagree"):
        unpack(b'shoal-bundle 1\n[["a",' + b"9" * 400 + b"]]\n")


def test_a_record_that_is_no_text_ends_a_journal_as_any_damage_does() -> None:
    sound = framed(Life(b"\x80"))
    bad = framed(cast(Any, msgspec.Raw(b"\x97\xa1i\x01\xa2\xff\xfe\xc4\x00\xcb" + bytes(8) + b"\xa0\xa0")))
    assert [record for record, _ in frames_in(sound + bad + sound)] == [Life(b"\x80")]


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x03\x90\xc0", b"\x93\x03\xa1\xff\xc0", b"\x91" * 2000])
def test_a_generator_that_is_none(data: bytes) -> None:
    with pytest.raises(ValueError, match="generator"):
        unpack_random(Random(), data)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    store = tmp_path / ".shoal"
    (store / "members").mkdir(parents=True)
    for place in (store / "secret", store / "members" / "register.json", tmp_path / FILE, tmp_path / "case.json"):
        place.write_bytes(NOT_UTF_8)
    (store / "token").write_bytes(b"t\xc3\x28")
    for secret in ("secret", "token"):
        with pytest.raises(BadCredentials):
            read_secret(store / secret)
    with pytest.raises(BadRegister):
        load_register(store)
    with pytest.raises(BadSettings, match="no TOML"):
        load_settings(Life, "a", store)
    with pytest.raises(BadCase):
        load(tmp_path / "case.json")
    (store / TRUST_FILE).write_bytes(b"\xff\n" + b"ed25519:" + b"6_Xz" * 10 + b"9Ts ann\xff\n")
    assert [one.name for one in trusted(store)] == ["ann\ufffd"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rounds = " + "9" * 5000, "no TOML"),
        ("a = " + "[" * DEEP, "no TOML"),
        ("x." * DEEP + "x = 1", "nests too deep"),
        ('"x" . ' * DEEP + "x = 1", "nests too deep"),
        ("a" * (MOST_BYTES + 1), "no TOML: it has more than"),
    ],
)
def test_job_files_beyond_what_numbers_and_nesting_may_be(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(text)
    with pytest.raises(BadJobFile, match=why):
        read_job_file(tmp_path / "job.toml")


def test_a_port_that_is_none_is_no_address(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text('{"port": 42424222}')
    assert last_url(tmp_path) is None
    (tmp_path / "server.json").write_text("[" * DEEP)
    assert last_url(tmp_path) is None
