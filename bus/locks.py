"""Locks on files: one server to a store, one process to a node's name. The kernel lets go of them when the holder dies."""

import contextlib
import os
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from schemas.errors import ShoalError
from schemas.ids import sanitised, token

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_FAR = 1 << 30  # on Windows a lock forbids reading too: lock a byte far behind the holder's number
_NAMES_TRIED = 10_000  # nodes on one machine; more is a mistake somewhere else


class AlreadyLocked(ShoalError):
    """Another process holds the lock.

    Attributes:
        path: the lock's file.
        holder: the process id that it noted there; None if it hasn't yet.
        mend: what to do about it.
    """

    def __init__(self, path: Path, holder: int | None, mend: str) -> None:
        who = f"process {holder}" if holder else "another process"
        super().__init__(f"{path.parent} is in use by {who}; {mend}")
        self.path = path
        self.holder = holder
        self.mend = mend


class FileLock:
    """An exclusive lock on the file `path`, which is made if need be and stays. Not waited for: it is free or it is not.

    It belongs to the open file, so a child that inherits `fileno()` holds it too, and it lasts until both are gone.
    """

    def __init__(self, path: Path, mend: str = "stop it or wait until it ends") -> None:
        self.path = path
        self._mend = mend
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock and notes this process's id in the file. `AlreadyLocked` if another has it; no-op if held."""
        if self._descriptor is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise AlreadyLocked(self.path, self.holder(), self._mend) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Lets go; no-op if not held. The file stays: removing it would let two processes lock two files of one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def fileno(self) -> int:
        """The file descriptor to pass to a child that is to hold the lock too; the lock must be held."""
        if self._descriptor is None:
            raise ValueError(f"{self.path} is not locked")
        return self._descriptor

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def holder(self) -> int | None:
        """The process id noted in the file by its last holder, who need not hold it any more."""
        with contextlib.suppress(OSError, ValueError):
            return int(self.path.read_text())
        return None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class NodeName:
    """A node's name, this process's alone on this store until it ends or `release` is called."""

    def __init__(self, name: str, lock: FileLock) -> None:
        self.name = name
        self._lock = lock

    def release(self) -> None:
        """Gives the name up."""
        self._lock.release()


def claim_node_name(store: Path, wanted: str | None = None) -> NodeName:
    """A name for a node of this machine, held by a lock in `<store>/nodes/` for as long as the process lives.

    Args:
        store: Shoal's directory on this machine.
        wanted: this name or none. By default the host's, made a valid token, and the first free one of `host`, `host-2`,
            `host-3`...; so whoever starts again gets the lowest free name, its old one if it was the only one to stop.

    Raises:
        BadIdentifier: `wanted` can't be a token of a subject.
        AlreadyLocked: a process here has `wanted`.
    """
    if wanted is not None:
        lock = _name_lock(store, token(wanted, "node"))
        lock.acquire()
        return NodeName(wanted, lock)
    for number in range(1, _NAMES_TRIED + 1):
        name = name_after_host(number)
        lock = _name_lock(store, name)
        with contextlib.suppress(AlreadyLocked):
            lock.acquire()
            return NodeName(name, lock)
    raise AlreadyLocked(lock.path, lock.holder(), f"stop one of the {_NAMES_TRIED} nodes of this store or give --name")


def name_after_host(number: int) -> str:
    """What this machine's nodes are called that nobody names, from 1: `host`, `host-2`, `host-3`..."""
    # 57 characters leave room for "-10000" in a token of 64.
    host = sanitised(socket.gethostname().split(".")[0])[:57]
    return host if number == 1 else f"{host}-{number}"


def _name_lock(store: Path, name: str) -> FileLock:
    return FileLock(store / "nodes" / f"{name}.lock", mend=f"a node named {name} runs here: stop it or give another --name")
