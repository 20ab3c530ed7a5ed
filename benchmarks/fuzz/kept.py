"""Readers of what lies on disks or is pasted by people: bundles, journals, keys, addresses, settings, job files."""

import importlib
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from agents.job_desk import JobDesk
from agents.job_desk.admission import objection
from benchmarks.fuzz.target import Target
from bus.credentials import BadCredentials, Credentials, read_secret, write_credentials
from bus.nkeys import BadKey, KeyPair, checked_public
from bus.server_config import last_url
from runners.address import BadServer, parse_server
from runners.bundles.content import compress, decompress, pack, unpack
from runners.bundles.errors import BundleError
from runners.bundles.keys import public_key, verified
from runners.bundles.trust import TRUST_FILE, trusted
from runners.inputs import InputCodec
from runners.job_file import BadJobFile, read_job_file, request_in
from runners.journal import Decided, Done, Entry, Life, Snapshot, TimerSet, framed, frames_in
from runners.members.files import BadRegister, load_register, save_register
from runners.members.invitation import BadInvitation, Invitation, invitation_in, line_of
from runners.members.register import Known, Register
from runners.settings import FILE, BadSettings, load_settings
from runners.simulation.cases import BadCase, Case, load, save
from runners.simulation.cores import AGENTS
from runners.undo import pack_random, unpack_random
from schemas.errors import FAULTS, DecodeError
from schemas.examples import examples_of
from schemas.members import Role

_EXAMPLES: Final = Path(__file__).parents[2] / "examples"
_SIZE: Final = 1200  # bytes of the bundle below


class _Desk:
    """A folder, which files are put into to be read."""

    def __init__(self) -> None:
        self._held = tempfile.TemporaryDirectory(prefix="shoal-fuzz-")
        self.folder = Path(self._held.name)
        self.store = self.folder / ".shoal"
        (self.store / "members").mkdir(parents=True)

    def put(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path


def _content() -> bytes:
    return pack({"model.py": b"x = 1\n" * 90, "data/words.txt": b"word " * 90, "data/é.txt": b""})


def _bundle(data: bytes) -> None:
    """As content, and as what the object store has."""
    if data[:1] == b"x":
        decompress(data, _SIZE)
    else:
        files = unpack(data)
        if pack(files) != data:
            raise AssertionError("a bundle that nobody could have packed")


def _bundles() -> list[bytes]:
    content = _content()
    return [content, content, compress(content), compress(bytes(64 * 1024))]


def _records() -> list[msgspec.Struct]:
    codec = _codec()
    asked = [Entry(i, name, body, 1.5, "a:1:2", f"b:1:{i}") for i, (name, body) in enumerate(map(codec.pack, _inputs()))]
    timer = TimerSet(kind="RetentionOver", body=b"\x81\xa3job\xa1j", at=9.0, cause="")
    snapshot = Snapshot(
        number=3,
        now=2.0,
        incarnation=5,
        sequence=8,
        state=b"\x80",
        random=pack_random(Random(1)),
        timers=[timer],
        seen=["a"],
    )
    return [*asked, Done([1, 2, 3]), Decided(1, b"abcd" * 3), Life(b"\x80"), snapshot]


def _inputs() -> list[Any]:
    return [msgspec.convert(body, kind) for kind in JobDesk.listens_to() for body in examples_of(kind)]


def _codec() -> InputCodec:
    return InputCodec([*JobDesk.listens_to(), *JobDesk.answers()])


class _Journal:
    """Frames as they lie on disk, and records whose check is right though they are not."""

    def __init__(self) -> None:
        self._codec = _codec()

    def read(self, data: bytes) -> None:
        if data[:1] == b"r":
            body = data[1:]
            data = len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body
        for record, end in frames_in(data):
            if isinstance(record, Entry):
                self._codec.unpack(record.kind, record.body)
            elif isinstance(record, Snapshot):
                unpack_random(Random(), record.random)
            if end > len(data):
                raise AssertionError("a record beyond the end")


def _journals() -> list[bytes]:
    records = [framed(record) for record in _records()]  # type: ignore[arg-type]
    return [b"".join(records), *records, *(b"r" + record[8:] for record in records)]


def _keys(data: bytes) -> None:
    """All that is read as a key, an invitation or an address, one after the other."""
    text = data.decode(errors="surrogateescape")
    for read in (public_key, checked_public, KeyPair, invitation_in, parse_server):
        try:
            read(text)
        except (BundleError, BadKey, BadInvitation, BadServer) as error:
            if not str(error):
                raise AssertionError("an error without words") from None
    verified(text[:51], data, text[51:])


def _invitation() -> Invitation:
    pair = KeyPair.generate()
    return Invitation(server="tls://192.0.2.1:4222", name="inv-1", seed=pair.seed, role=Role.NODE, until=1.0, signer="x")


def _key_corpus() -> list[bytes]:
    pair = KeyPair.generate()
    signer = "ed25519:" + "6_Xz" * 10 + "9Ts"
    lines = [line_of(_invitation()), pair.seed, pair.public, signer + "A-_z" * 21 + "ab", signer]
    addresses = ["nats://token@192.0.2.1:4222", "localhost", "[::1]:4222", "tls://host.example:1", "nats://u:p@h:1"]
    return [line.encode() for line in (*lines, *addresses)]


def _credentials(desk: _Desk) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        for name, reader in (("secret", read_secret), ("members/register.json", lambda path: load_register(desk.store))):
            path = desk.put(f".shoal/{name}", data)
            try:
                reader(path)
            except (BadCredentials, BadRegister) as error:
                if not str(error):
                    raise AssertionError("an error without words") from None
        desk.put(f".shoal/{TRUST_FILE}", data)
        trusted(desk.store)
        desk.put(".shoal/server.json", data)
        address = last_url(desk.store)
        if address is not None:
            parse_server(address)

    return read


def _credential_corpus(desk: _Desk) -> list[bytes]:
    pair = KeyPair.generate()
    write_credentials(desk.store / "made", Credentials(role="node", name="laptop", seed=pair.seed, server="nats://h:1"))
    known = Known(name="laptop", role=Role.NODE, key=pair.public, since=1.0)
    save_register(desk.store, Register(members={"laptop": known}))
    server = b'{"listen": "0.0.0.0", "port": 4222, "websocket_port": 1, "pid": 2}'
    lines = b"ed25519:" + b"6_Xz" * 10 + b"9Ts ann\n"
    register = (desk.store / "members" / "register.json").read_bytes()
    return [b"a-token_1", (desk.store / "made").read_bytes(), register, server, lines * 3]


def _settings(desk: _Desk) -> Callable[[bytes], None]:
    kinds = [(name, getattr(importlib.import_module(module), kind)) for name, (module, _, kind) in AGENTS.items()]

    def read(data: bytes) -> None:
        desk.put(FILE, data)
        name, kind = kinds[len(data) % len(kinds)]
        load_settings(kind, name, desk.store)

    return read


def _settings_corpus() -> list[bytes]:
    made = []
    for name, (module, _, kind) in AGENTS.items():
        values = msgspec.to_builtins(getattr(importlib.import_module(module), kind)())
        rows = [f"{key} = {str(value).lower()}" for key, value in values.items() if isinstance(value, int | float)]
        made.append("\n".join([f"[{name}]", *rows, ""]).encode())
    return made


def _job_file(desk: _Desk) -> Callable[[bytes], None]:
    """What `shoal submit` and `shoal doctor --fleet` make of it, up to the desk's own look."""

    def read(data: bytes) -> None:
        request = request_in(read_job_file(desk.put("job.toml", data)))
        objection(request)

    return read


def _case(desk: _Desk) -> Callable[[bytes], None]:
    return lambda data: load(desk.put("case.json", data)) and None


def _case_corpus(desk: _Desk) -> list[bytes]:
    save(Case(seed=7, nodes=("n1", "n2"), hours=0.5), desk.folder / "made.json")
    kept = sorted((Path(__file__).parents[2] / "tests/simulation/cases").glob("*.json"))
    return [(desk.folder / "made.json").read_bytes(), *(path.read_bytes() for path in kept[:3])]


def _toml() -> Sequence[bytes]:
    made = [path.read_bytes() for path in sorted(_EXAMPLES.glob("*.toml"))]
    return [
        *made,
        b'kind = "train"\nworkload = "a:b"\nrounds = 3\nmin_nodes = 1\nwhen = 1979-05-27T07:32:00Z\nfiles = ["a"]\n',
    ]


def targets() -> Iterator[Target]:
    """The readers."""
    desk = _Desk()
    yield Target("bundles", _bundle, (BundleError,), _bundles)
    yield Target("journals", _Journal().read, (*FAULTS, ValueError), _journals)
    yield Target("keys, invitations, addresses", _keys, (), _key_corpus)
    yield Target("credentials, registers, trust", _credentials(desk), (), lambda: _credential_corpus(desk), share=0.1)
    yield Target("settings", _settings(desk), (BadSettings,), _settings_corpus, 512, share=0.25)
    yield Target("job files", _job_file(desk), (BadJobFile, DecodeError), _toml, 512, share=0.5)
    yield Target("simulation cases", _case(desk), (BadCase,), lambda: _case_corpus(desk))
