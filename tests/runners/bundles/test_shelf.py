"""A node's shelf: what is refused, what is fetched, what is kept."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bus.nats_objects import CorruptObject, ObjectTooLarge
from runners.bundles.content import compress, digest_of, pack
from runners.bundles.errors import BundleError
from runners.bundles.keys import Signer, own_signer
from runners.bundles.shelf import Shelf
from runners.bundles.submitting import Packed, make_bundle
from runners.bundles.trust import trust
from schemas.bundles import SourceBundle, statement

WORKLOAD = "mine:workload"


def nothing() -> None:
    """Nobody counts the parts here."""


class Machines:
    """A submitter's machine, a node's, and the object store between them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.submitter = home / "submitter"
        self.store = home / "node"
        self.objects: dict[str, bytes] = {}
        self.fetches: list[str] = []
        self.signer: Signer = own_signer(self.submitter)
        trust(self.store, self.signer.public)

    def packed(self, text: str = "x = 1\n") -> Packed:
        app = self.home / "app"
        (app / "data").mkdir(parents=True, exist_ok=True)
        (app / "mine.py").write_text(text)
        (app / "data" / "words.txt").write_text("hello")
        made = make_bundle(WORKLOAD, app, ["data"], self.submitter)
        self.objects[made.name] = made.data
        return made

    async def fetch(self, name: str, limit: int, arrived: Callable[[], None]) -> bytes:
        self.fetches.append(name)
        data = self.objects[name]
        if len(data) > limit:
            raise ObjectTooLarge(name, limit)
        arrived()
        await asyncio.sleep(0)
        return data

    def shelf(self, **more: object) -> Shelf:
        return Shelf(self.store, self.fetch, **more)  # type: ignore[arg-type]

    def signed(self, content: bytes, workload: str = WORKLOAD) -> SourceBundle:
        """What a malicious submitter with a trusted key may say."""
        digest = digest_of(content)
        self.objects[f"bundles/{digest}"] = compress(content)
        return SourceBundle(
            digest=digest,
            size=len(content),
            submitter=self.signer.public,
            signature=self.signer.sign(statement(workload, digest, len(content))),
        )

    def left(self) -> list[str]:
        """Everything in the node's folder of bundles."""
        return sorted(path.name for path in (self.store / "bundles").glob("*"))


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    return Machines(tmp_path)


async def refusal(shelf: Shelf, source: SourceBundle, workload: str = WORKLOAD) -> str:
    with pytest.raises(BundleError) as caught:
        await shelf.take(workload, source, nothing)
    return str(caught.value)


async def test_a_bundle_is_fetched_once_and_lies_there_as_it_was_packed(machines: Machines) -> None:
    packed, parts = machines.packed(), []
    first, second = machines.shelf(), machines.shelf()
    held = await asyncio.gather(*(first.take(WORKLOAD, packed.source, lambda: parts.append(1)) for _ in range(3)))
    held.append(await second.take(WORKLOAD, packed.source, nothing))
    assert machines.fetches == [packed.name]
    assert parts == [1]
    folder = held[0].folder
    assert {each.folder for each in held} == {folder}
    files = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert files == {"mine.py": "x = 1\n", "data/words.txt": "hello"}
    assert machines.left() == [packed.source.digest]


async def test_a_stranger_s_code_is_refused_with_the_command_that_mends_it(machines: Machines) -> None:
    packed = machines.packed()
    stranger = Shelf(machines.home / "else", machines.fetch)
    said = await refusal(stranger, packed.source)
    assert f"comes from {machines.signer.public}, whom this node does not trust" in said
    assert f"`shoal trust {machines.signer.public} --store {machines.home / 'else'}`" in said
    assert machines.fetches == [], "nothing is fetched for strangers"
    trusting = Shelf(machines.home / "else", machines.fetch, trust=(machines.signer.public,))
    assert (await trusting.take(WORKLOAD, packed.source, nothing)).folder.is_dir()
    trust(machines.home / "else", machines.signer.public)
    assert (await stranger.take(WORKLOAD, packed.source, nothing)).folder.is_dir()


async def test_a_signature_is_for_one_content_and_one_workload(machines: Machines) -> None:
    packed, shelf = machines.packed(), machines.shelf()
    assert "signature is not its submitter's word on this workload" in await refusal(shelf, packed.source, "os:abort")
    other = own_signer(machines.home / "other")
    changes: list[dict[str, object]] = [
        {"digest": "0" * 64},
        {"size": packed.source.size + 1},
        {"submitter": other.public},
        {"signature": other.sign(b"x")},
    ]
    for change in changes:
        assert "signature" in await refusal(shelf, msgspec.structs.replace(packed.source, **change))
    assert machines.fetches == []


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda data: None, "is not in the object store"),
        (lambda data: b"", "has not the"),
        (lambda data: data[:-3], "has not the"),
        (lambda data: data + bytes(10_000), "has more than"),
        (lambda data: b"\xff" + data[1:], "damaged"),
        (lambda data: compress(pack({"mine.py": b"y = 2\n", "data/words.txt": b"hello"})), "not the one that was signed"),
    ],
)
async def test_what_is_damaged_or_exchanged_in_the_store_is_refused(
    machines: Machines, spoil: Callable[[bytes], bytes | None], problem: str
) -> None:
    packed, shelf = machines.packed(), machines.shelf()
    spoilt = spoil(machines.objects.pop(packed.name))
    if spoilt is not None:
        machines.objects[packed.name] = spoilt
    said = await refusal(shelf, packed.source)
    assert problem in said
    assert "submit the job again with --bundle" in said
    assert machines.left() == []
    machines.packed()
    assert (await shelf.take(WORKLOAD, packed.source, nothing)).folder.is_dir(), "once it is mended, it is taken"


async def test_a_chunk_that_the_store_lost_is_damage(machines: Machines) -> None:
    async def fetch(name: str, limit: int, arrived: Callable[[], None]) -> bytes:
        raise CorruptObject(name)

    packed = machines.packed()
    assert "damaged" in await refusal(Shelf(machines.store, fetch), packed.source)


@pytest.mark.parametrize("name", ["../escaped.py", "/tmp/escaped.py", "a/../../escaped.py"])
async def test_even_a_trusted_submitter_s_names_lead_nowhere_else(machines: Machines, name: str) -> None:
    content = b"shoal-bundle 1\n" + msgspec.json.encode([[name, 1]]) + b"\nx"
    assert "can't be the name" in await refusal(machines.shelf(), machines.signed(content))
    assert list(machines.home.rglob("escaped.py")) == []


async def test_a_node_may_take_less(machines: Machines) -> None:
    packed = machines.packed()
    said = await refusal(machines.shelf(most_bytes=10), packed.source)
    assert "raise bundle_bytes in [node] of its shoal.toml" in said
    assert machines.fetches == []


def spoil_text(folder: Path) -> None:
    (folder / "mine.py").chmod(0o644)
    (folder / "mine.py").write_text("x = 3\n")


def remove(folder: Path) -> None:
    (folder / "mine.py").unlink()


def add(folder: Path) -> None:
    (folder / "json.py").write_text("raise SystemExit")


def link(folder: Path) -> None:
    target = folder.parent.parent / "elsewhere.py"
    target.write_text("x = 1\n")
    (folder / "mine.py").unlink()
    (folder / "mine.py").symlink_to(target)


def link_folder(folder: Path) -> None:
    shutil.move(folder / "data", folder.parent.parent / "data")
    (folder / "data").symlink_to(folder.parent.parent / "data")


@pytest.mark.parametrize("change", [spoil_text, remove, add, link, link_folder])
async def test_what_was_changed_on_the_disk_is_not_run_but_fetched_again(
    machines: Machines, change: Callable[[Path], None]
) -> None:
    packed, shelf = machines.packed(), machines.shelf()
    held = await shelf.take(WORKLOAD, packed.source, nothing)
    held.release()
    change(held.folder)
    again = await shelf.take(WORKLOAD, packed.source, nothing)
    assert len(machines.fetches) == 2
    assert again.folder == held.folder
    assert {path.name for path in again.folder.rglob("*")} == {"mine.py", "data", "words.txt"}
    assert not (again.folder / "mine.py").is_symlink()
    assert (again.folder / "mine.py").read_text() == "x = 1\n"


async def test_those_used_longest_ago_go_first_and_those_in_use_stay(machines: Machines) -> None:
    shelf = machines.shelf(kept_bytes=30)  # two of some 12 bytes each
    packed = [machines.packed(f"x = {number}\n") for number in range(5)]
    digests = [each.source.digest for each in packed]
    held = []
    for number in range(3):
        held.append(await shelf.take(WORKLOAD, packed[number].source, nothing))
        os.utime(held[-1].folder, (number, number))
    assert machines.left() == sorted(digests[:3]), "all are in use"
    held[1].release()
    held[2].release()
    held.append(await shelf.take(WORKLOAD, packed[3].source, nothing))
    assert machines.left() == sorted([digests[0], digests[2], digests[3]]), "the older one that isn't in use went"
    for each in (held[0], held[3]):
        each.release()
    assert (await shelf.take(WORKLOAD, packed[3].source, nothing)).folder.is_dir()
    assert machines.fetches.count(packed[3].name) == 1


async def test_what_a_killed_process_left_is_removed_once_it_is_old(machines: Machines) -> None:
    folder = machines.store / "bundles"
    for name in ("new-old", "new-young"):
        (folder / name).mkdir(parents=True)
    os.utime(folder / "new-old", (0, 0))
    packed = machines.packed()
    await machines.shelf().take(WORKLOAD, packed.source, nothing)
    assert machines.left() == sorted([packed.source.digest, "new-young"])


def test_the_same_files_have_the_same_digest_wherever_they_lie(machines: Machines, tmp_path: Path) -> None:
    first = machines.packed()
    other = tmp_path / "copy"
    shutil.copytree(machines.home / "app", other)
    for path in other.rglob("*"):
        os.utime(path, (5, 5))
        path.chmod(0o700)
    again = make_bundle(WORKLOAD, other, ["data/words.txt"], machines.submitter)
    assert again.source == first.source
    assert again.files == ("data/words.txt", "mine.py")
