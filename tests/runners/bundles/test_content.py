"""The content of bundles: the same files give the same digest; nothing that leads elsewhere gets in or out."""

import random
import zlib
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.bundles.content import MAX_FILES, check_sizes, compress, decompress, digest_of, most_compressed, pack, unpack
from runners.bundles.errors import BundleError
from schemas.bundles import MAX_BUNDLE

NAMES = st.lists(st.sampled_from(["a", "b.py", "ä", "data", "x-1"]), min_size=1, max_size=3).map("/".join)
FILES = st.dictionaries(NAMES, st.binary(max_size=40), max_size=5)


def packed(names: list[tuple[str, int]], body: bytes) -> bytes:
    """A content as a stranger could write it."""
    return b"shoal-bundle 1\n" + msgspec.json.encode(names) + b"\n" + body


@given(files=FILES)
def test_what_is_packed_comes_out_the_same_in_whatever_order_it_went_in(files: dict[str, bytes]) -> None:
    try:
        content = pack(files)
    except BundleError:
        assert any(f"{name}/" in "".join(files) for name in files), "only a file below another file is refused"
        return
    assert unpack(content) == files
    assert digest_of(pack(dict(reversed(files.items())))) == digest_of(content)
    assert decompress(compress(content), len(content)) == content


@given(files=FILES, name=NAMES, body=st.binary(max_size=40))
def test_other_files_have_another_digest(files: dict[str, bytes], name: str, body: bytes) -> None:
    other = files | {name: body}
    try:
        one, two = pack(files), pack(other)
    except BundleError:
        return
    assert (digest_of(one) == digest_of(two)) == (files == other)


BAD_NAMES = [
    "", "/etc/passwd", "../up.py", "a/../../up.py", "a/./b", "a//b", "a/", "C:/x", "a\\b", "a\0b", "a\nb", "con.", "a ",
    "\ud800", "x" * 256, "/".join("d" * 33), "/".join(["y" * 100] * 6), "a\u202eb", "~?", "nul|",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_elsewhere_or_that_some_machine_can_t_have_are_refused(name: str) -> None:
    with pytest.raises(BundleError, match="can't be the name"):
        pack({name: b""})
    if name != "\ud800":  # which JSON can't say
        with pytest.raises(BundleError, match="can't be the name"):
            unpack(packed([(name, 0)], b""))


@pytest.mark.parametrize(
    "names",
    [
        ["a.py", "A.py"],
        ["a/x.py", "A/y.py"],
        ["caf\u00e9", "cafe\u0301"],
        ["a", "a/b"],
    ],
)
def test_two_names_that_are_one_somewhere_are_refused(names: list[str]) -> None:
    with pytest.raises(BundleError, match="one name on some machines"):
        pack(dict.fromkeys(names, b""))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "another format"),
        (b"shoal-bundle 2\n[]\n", "another format"),
        (b"shoal-bundle 1\n{\n", "can't be read"),
        (b"shoal-bundle 1\n" + b"[" * 100_000 + b"\n", "can't be read"),
        (b'shoal-bundle 1\n[["a", "1"]]\n', "can't be read"),
        (b"shoal-bundle 1\n[" + b" " * 4_000_000 + b"]\n", "another format"),
        (packed([("a", 2)], b"x"), "disagree"),
        (packed([("a", 1)], b"xy"), "disagree"),
        (packed([("a", 3), ("b", -1)], b"xy"), "disagree"),
        (packed([("b", 1), ("a", 1)], b"xy"), "not laid out"),
        (packed([("a", 1), ("a", 1)], b"xy"), "not laid out"),
        (b'shoal-bundle 1\n[["a", 1]]\nx', "not laid out"),
    ],
)
def test_what_pack_did_not_make_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(BundleError, match=problem):
        unpack(content)


@given(data=st.binary(max_size=200))
def test_no_bytes_do_anything_but_come_out_or_be_refused(data: bytes) -> None:
    for content in (data, b"shoal-bundle 1\n" + data):
        try:
            files = unpack(content)
        except BundleError:
            continue
        assert pack(files) == content
    with pytest.raises(BundleError):
        decompress(data, 7)


def test_a_bomb_is_not_blown_up() -> None:
    bomb = zlib.compress(bytes(50 * 1024 * 1024), 9)
    assert len(bomb) < most_compressed(60_000)
    with pytest.raises(BundleError, match="has not the 1000 bytes"):
        decompress(bomb, 1000)


@pytest.mark.parametrize("spoilt", [lambda d: d[:-1], lambda d: d + b"x", lambda d: d[:9] + b"\xff\xff" + d[11:]])
def test_damage_is_noticed(spoilt: Callable[[bytes], bytes]) -> None:
    content = pack({"a.py": b"x = 1\n" * 50})
    with pytest.raises(BundleError, match="in the object store"):
        decompress(spoilt(compress(content)), len(content))


def test_limits_are_told_with_what_is_largest() -> None:
    with pytest.raises(BundleError, match=r"33\.6 MB; the largest are big \(33\.0 MB\), b \(1\.0 MB\)"):
        check_sizes({"a.py": 10, "b": 1_000_000, "big": 33_000_000})
    with pytest.raises(BundleError, match=f"more than {MAX_FILES} files"):
        check_sizes({f"{number:05}": 0 for number in range(MAX_FILES + 1)})
    exact = MAX_BUNDLE - len(check_sizes({"big": 33_000_000}))
    assert len(check_sizes({"big": exact})) + exact == MAX_BUNDLE


@given(size=st.integers(0, 3000))
def test_compressed_bytes_stay_within_what_nodes_take(size: int) -> None:
    assert len(compress(random.Random(size).randbytes(size))) <= most_compressed(size)
