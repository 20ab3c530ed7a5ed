"""The bundles of one machine: checked against whom it trusts, fetched once, kept by their content, unpacked for use."""

import asyncio
import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

from bus.nats_objects import CorruptObject, ObjectTooLarge
from runners.address import STORE
from runners.bundles.content import decompress, digest_of, mega, most_compressed, pack, unpack
from runners.bundles.errors import BundleError, NotTaken
from runners.bundles.keys import verified
from runners.bundles.trust import trusts
from schemas.bundles import MAX_BUNDLE, SourceBundle, object_name, statement

FOLDER: Final = "bundles"
_UNFINISHED: Final = "new-"
_STALE: Final = 3600.0  # seconds after which what a killed process was unpacking is removed
_AGAIN: Final = "submit the job again with --bundle"

Fetch = Callable[[str, int, Callable[[], None]], Awaitable[bytes]]
"""Gets an object by name, of so many bytes at most; the last argument is to be called as parts of it arrive."""


class Held:
    """An unpacked bundle in use: it isn't removed before `release`, or the end of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(OSError):  # a file system without locks: then nothing is ever removed there either
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def release(self) -> None:
        """Done with it."""
        os.close(self._descriptor)


class Shelf:
    """Where a node finds the code of its jobs."""

    def __init__(
        self,
        store: Path,
        fetch: Fetch,
        *,
        trust: tuple[str, ...] = (),
        most_bytes: int = MAX_BUNDLE,
        kept_bytes: int = 16 * MAX_BUNDLE,
    ) -> None:
        """Nothing happens yet.

        Args:
            store: this machine's; several nodes may share it.
            trust: keys to trust besides those of the store's file.
            most_bytes: of a bundle; larger ones are refused.
            kept_bytes: of all unpacked ones; those used longest ago go first.
        """
        self._store = store
        self._folder = store.resolve() / FOLDER
        self._fetch = fetch
        self._trust = trust
        self._most = most_bytes
        self._kept = kept_bytes
        self._busy: dict[str, asyncio.Lock] = {}

    def require_trust(self, submitter: str) -> None:
        """Raises `NotTaken`, which says how to mend it, unless this node runs the code of that submitter."""
        if not trusts(self._store, submitter, self._trust):
            where = "" if self._store == STORE else f" --store {self._store}"
            problem = f"the job's code comes from {submitter}, whom this node does not trust"
            raise NotTaken(problem, f"if you do, say `shoal trust {submitter}{where}` on its machine")

    async def take(self, workload: str, source: SourceBundle, arrived: Callable[[], None]) -> Held:
        """The unpacked bundle, from this machine or from the object store.

        Raises:
            NotTaken: it is not to be run here: its submitter isn't trusted, or it is larger than this node takes.
            BundleError: signature or content are wrong, or it isn't there.
            BusError: the server can't be reached.
            OSError: the disk is full, or the like.
        """
        if not verified(source.submitter, statement(workload, source.digest, source.size), source.signature):
            raise BundleError("the bundle's signature is not its submitter's word on this workload", _AGAIN)
        self.require_trust(source.submitter)
        if source.size > self._most:
            mend = "pack less, or raise bundle_bytes in [node] of its shoal.toml"
            raise NotTaken(f"the bundle has {mega(source.size)}, and this node takes {mega(self._most)}", mend)
        async with self._busy.setdefault(source.digest, asyncio.Lock()):
            held = await asyncio.to_thread(self._look, source)
            if held is None:
                data = await self._fetched(source, arrived)
                held = await asyncio.to_thread(self._put, source, data)
        return held

    async def _fetched(self, source: SourceBundle, arrived: Callable[[], None]) -> bytes:
        try:
            return await self._fetch(object_name(source.digest), most_compressed(source.size), arrived)
        except KeyError:
            raise BundleError("the bundle is not in the object store", _AGAIN) from None
        except (CorruptObject, ObjectTooLarge) as error:
            raise BundleError(f"the bundle is damaged in the object store ({error})", _AGAIN) from None

    # In threads: what takes time.

    def _look(self, source: SourceBundle) -> Held | None:
        """What is unpacked already, if it is still what it was."""
        folder = self._folder / source.digest
        try:
            held = Held(folder)
        except OSError:
            return None
        if _is_sound(folder, source):
            with contextlib.suppress(OSError):
                os.utime(folder)
            return held
        held.release()
        return None

    def _put(self, source: SourceBundle, data: bytes) -> Held:
        content = decompress(data, source.size)
        if digest_of(content) != source.digest:
            raise BundleError("the bundle in the object store is not the one that was signed", _AGAIN)
        files = unpack(content)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._folder))
        try:
            for name, body in files.items():
                path = unfinished / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444), "wb") as file:
                    file.write(body)
            held = self._install(unfinished, source)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        self._make_room(source.digest)
        return held

    def _install(self, unfinished: Path, source: SourceBundle) -> Held:
        """Give the folder its name at once, unless another node of this store was first."""
        folder = self._folder / source.digest
        with contextlib.suppress(OSError):
            unfinished.rename(folder)
            return Held(folder)
        held = self._look(source)
        if held is not None:
            return held
        shutil.rmtree(folder)  # damaged
        unfinished.rename(folder)
        return Held(folder)

    def _make_room(self, newest: str) -> None:
        """Remove what was used longest ago and isn't in use, until the rest fits; and what a killed process left behind."""
        total = 0
        for changed, folder in sorted(self._entries(), reverse=True):
            if folder.name.startswith(_UNFINISHED):
                if time.time() - changed > _STALE:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            total += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            if total > self._kept and folder.name != newest:
                _remove(folder)

    def _entries(self) -> Iterator[tuple[float, Path]]:
        for folder in self._folder.iterdir():
            with contextlib.suppress(OSError):
                yield folder.stat().st_mtime, folder


def _is_sound(folder: Path, source: SourceBundle) -> bool:
    """Whether packing the folder again gives the same: it holds these files, and no link or other file beside them."""
    files: dict[str, bytes] = {}
    size = 0
    try:
        for at, folders, names in os.walk(folder):
            for name in (*folders, *names):
                path = Path(at) / name
                about = path.lstat()
                if name in folders:
                    if not stat.S_ISDIR(about.st_mode):
                        return False
                    continue
                size += about.st_size
                if not stat.S_ISREG(about.st_mode) or size > source.size:
                    return False
                files[path.relative_to(folder).as_posix()] = path.read_bytes()
        return digest_of(pack(files)) == source.digest
    except (OSError, BundleError):
        return False


def _remove(folder: Path) -> None:
    """Remove a bundle that no process holds; one that does must not lose its files."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return
    finally:
        os.close(descriptor)
