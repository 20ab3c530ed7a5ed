"""Whose code a machine runs: a file of public keys in its store, beside what a command line adds."""

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import psutil  # type: ignore[import-untyped]

from bus.locks import FileLock
from runners.bundles.keys import BadKey, public_key, stored_signer

TRUST_FILE: Final = "trusted"
TRUST_SIGNAL: Final = signal.SIGUSR1
"""Tells a node that whom it trusts has changed. SIGHUP would take from nodes that they end with their terminal."""


class Trusted(msgspec.Struct, frozen=True, kw_only=True):
    """A submitter whose code runs here."""

    key: str
    name: str = ""
    """What this machine's owner calls them."""


def trusted(store: Path) -> list[Trusted]:
    """Those in the store's file, in the order in which they were added. Lines that hold no key are passed over."""
    try:
        lines = (store / TRUST_FILE).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        key, _, name = line.strip().partition(" ")
        with contextlib.suppress(BadKey):
            found.append(Trusted(key=public_key(key), name=name.strip()))
    return found


def trusts(store: Path, key: str, more: Iterable[str] = ()) -> bool:
    """Whether a node of this store runs what this key signed: it is in the file, among `more`, or the store's own.

    The store's own counts because whoever can read its key can put a line into the file, too.
    """
    if key in more or any(one.key == key for one in trusted(store)):
        return True
    try:
        own = stored_signer(store)
    except (BadKey, PermissionError):
        return False
    return own is not None and own.public == key


def trust(store: Path, key: str, name: str = "") -> bool:
    """Add a key, or give it another name; gives whether it is new. Raises `BadKey`."""
    key, known = public_key(key), trusted(store)
    same = [one for one in known if one.key == key]
    entry = Trusted(key=key, name=" ".join(name.split()) or (same[0].name if same else ""))
    _write(store, [one for one in known if one.key != key] + [entry])
    return not same


def distrust(store: Path, key: str) -> bool:
    """Take a key out, named in full or as `trust` named it; gives whether it was there."""
    known = trusted(store)
    left = [one for one in known if key not in (one.key, one.name)]
    if len(left) == len(known):
        return False
    _write(store, left)
    return True


def tell_nodes(store: Path) -> list[str]:
    """Tell the nodes that run on this store to look at the file again; gives their names."""
    told = []
    for path in sorted((store / "nodes").glob("*.lock")):
        holder = FileLock(path).holder()
        # The lock isn't tried: a node that starts just now would find it taken. A process that began after the number was
        # noted is another one that got the same.
        with contextlib.suppress(psutil.Error, OSError):
            if holder is not None and psutil.Process(holder).create_time() <= path.stat().st_mtime:
                os.kill(holder, TRUST_SIGNAL)
                told.append(path.stem)
    return told


def _write(store: Path, entries: list[Trusted]) -> None:
    """Whole or not at all."""
    store.mkdir(parents=True, exist_ok=True)
    path = store / TRUST_FILE
    descriptor, aside = tempfile.mkstemp(prefix=f"{TRUST_FILE}.", dir=store)
    with os.fdopen(descriptor, "w") as file:
        file.write("".join(f"{one.key} {one.name}".rstrip() + "\n" for one in entries))
    os.replace(aside, path)
