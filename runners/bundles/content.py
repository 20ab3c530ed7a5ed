"""The content of a bundle: names and bytes of files, laid out so that the same files always have the same SHA-256.

A line that names the format, a line of JSON `[[name, size], ...]` in order of names, then the files' bytes. Nothing else
can be said: no links, devices, owners, modes or times, so a reader has only names and sizes to be wary of. The digest is
taken of this; what travels is its zlib compression, whose bytes differ between versions of zlib and identify nothing.
"""

import hashlib
import unicodedata
import zlib
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from runners.bundles.errors import BundleError
from schemas.bundles import MAX_BUNDLE
from schemas.errors import FAULTS

_FORMAT: Final = b"shoal-bundle 1\n"
MAX_FILES: Final = 4096
"""Files in a bundle: a large project's source has some hundreds; more is an environment or a data set."""
_MAX_NAME: Final = 512  # bytes of a name with its folders: file systems take 255 a part and 1024 and more in all
_ENTRY: Final = 32  # bytes of the rest of a line in the table of contents: brackets, quotes, commas, a size
_MAX_PART: Final = 255
_MAX_DEPTH: Final = 32
_FORBIDDEN: Final = frozenset('\\:*?"<>|')
"""Characters that some system's file names can't have, or that mean something else there (drives, streams)."""
_LEVEL: Final = 6  # zlib's usual balance; 9 saves a hundredth of source text and takes twice as long

Files = Mapping[str, bytes]
_NAMES = msgspec.json.Decoder(list[tuple[str, int]])
_ASK_AGAIN: Final = "submit the job again with --bundle"


def pack(files: Files) -> bytes:
    """The content of these files (names are relative, with `/`).

    Raises:
        BundleError: a name that some node could not have, too many files, too many bytes.
    """
    header = check_sizes({name: len(data) for name, data in files.items()})
    return b"".join([header, *(files[name] for name in sorted(files))])


def check_sizes(sizes: Mapping[str, int]) -> bytes:
    """The header of a bundle of such files. Raises `BundleError` as `pack`, before any of them has to be read."""
    names = sorted(sizes)
    _check_names(names)
    header = _FORMAT + msgspec.json.encode([(name, sizes[name]) for name in names]) + b"\n"
    total = len(header) + sum(sizes.values())
    if total > MAX_BUNDLE:
        largest = sorted(names, key=lambda name: -sizes[name])[:3]
        told = ", ".join(f"{name} ({mega(sizes[name])})" for name in largest)
        raise BundleError(
            f"{len(names)} files of {mega(total)}, and a bundle takes {mega(MAX_BUNDLE)}; the largest are {told}",
            'leave out what nodes can read elsewhere, such as data, with files = ["!NAME"] in the job file',
        )
    return header


def unpack(content: bytes) -> dict[str, bytes]:
    """The files of a content that `pack` could have made.

    Raises:
        BundleError: anything else.
    """
    head, _, body = content.removeprefix(_FORMAT).partition(b"\n")
    if not content.startswith(_FORMAT) or len(head) > MAX_FILES * (_MAX_NAME + _ENTRY):
        raise BundleError("the bundle is of another format", "use the same version of Shoal everywhere")
    try:
        listed = _NAMES.decode(head)
    except FAULTS as error:
        raise BundleError(f"the bundle's table of contents can't be read ({error})", _ASK_AGAIN) from None
    if any(size < 0 for _, size in listed) or sum(size for _, size in listed) != len(body):
        raise BundleError("the bundle's table of contents and its length disagree", _ASK_AGAIN)
    if check_sizes(dict(listed)) != _FORMAT + head + b"\n":
        raise BundleError("the bundle's table of contents is not laid out as it should be", _ASK_AGAIN)
    files, at = {}, 0
    for name, size in listed:
        files[name] = body[at : at + size]
        at += size
    return files


def digest_of(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def compress(content: bytes) -> bytes:
    """What is kept in the object store."""
    return zlib.compress(content, _LEVEL)


def decompress(data: bytes, size: int) -> bytes:
    """The content, which must have exactly `size` bytes: what is longer is not looked at.

    Raises:
        BundleError: damaged, or of another length.
    """
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise BundleError(f"the bundle is damaged in the object store ({error})", _ASK_AGAIN) from None
    if len(content) != size or not stream.eof or stream.unused_data:
        raise BundleError(f"the bundle in the object store has not the {size} bytes that were signed", _ASK_AGAIN)
    return content


def most_compressed(size: int) -> int:
    """Bytes that `compress` makes of `size` at most: deflate stores what it can't shrink (RFC 1951, 3.2.4), in blocks with
    5 bytes each of 16 KiB or more; zlib adds 6."""
    return size + size // 1000 + 64


def _check_names(names: Iterable[str]) -> None:
    """Raises `BundleError` unless the names are one each on any file system, and lead only below a folder."""
    places: dict[str, tuple[str, str]] = {}
    for number, name in enumerate(names):
        if number == MAX_FILES:
            raise BundleError(f"more than {MAX_FILES} files", "name a smaller directory, or leave folders out with files")
        _check_name(name)
        # Some file systems take `A` and `a`, or two ways to write `é`, for one name.
        folders = name.split("/")
        for depth in range(1, len(folders) + 1):
            place = "/".join(folders[:depth])
            kind = "file" if depth == len(folders) else "folder"
            known = places.setdefault(unicodedata.normalize("NFC", place).casefold(), (place, kind))
            if known != (place, kind):
                raise BundleError(f"{place!r} and {known[0]!r} are one name on some machines", "rename one of them")


def _check_name(name: str) -> None:
    parts = name.split("/")
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        lengths = [0]
    sound = (
        min(lengths) > 0
        and max(lengths) <= _MAX_PART
        and sum(lengths) + len(parts) <= _MAX_NAME
        and len(parts) <= _MAX_DEPTH
        and not any(part in (".", "..") or part[-1] in ". " for part in parts)
        and not any(character in _FORBIDDEN or not character.isprintable() for character in name)
    )
    if not sound:
        raise BundleError(f"{name[:80]!r} can't be the name of a file in a bundle", "rename it, or leave it out with files")


def mega(count: int) -> str:
    """Bytes as people say them."""
    return f"{count / 1e6:.1f} MB"
