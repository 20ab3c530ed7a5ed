"""Submitters' keys, and whom a machine trusts."""

import stat
from pathlib import Path

import pytest

from runners.bundles.keys import KEY_FILE, BadKey, own_signer, public_key, stored_signer, verified
from runners.bundles.trust import Trusted, distrust, tell_nodes, trust, trusted, trusts

OTHER = "ed25519:" + "A" * 43


def test_a_store_s_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert stored_signer(store) is None
    signer = own_signer(store)
    assert own_signer(store).public == signer.public
    assert stat.S_IMODE((store / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in store.iterdir()] == [KEY_FILE]
    assert own_signer(tmp_path / "other").public != signer.public


def test_a_signature_is_of_one_key_and_one_statement(tmp_path: Path) -> None:
    signer, other = own_signer(tmp_path / "a"), own_signer(tmp_path / "b")
    signature = signer.sign(b"this")
    assert signature == signer.sign(b"this")
    assert verified(signer.public, b"this", signature)
    assert not verified(signer.public, b"that", signature)
    assert not verified(other.public, b"this", signature)
    assert not verified(signer.public, b"this", other.sign(b"this"))
    assert not verified(OTHER, b"this", signature)
    assert not verified("ed25519:!", b"this", signature)
    assert not verified(signer.public, b"this", signature[:-4])


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    own_signer(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(BadKey, match="chmod 600"):
        own_signer(tmp_path)
    assert not trusts(tmp_path, OTHER)


def test_a_file_that_is_no_key_is_told(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).touch(0o600)
    with pytest.raises(BadKey, match="holds no key"):
        own_signer(tmp_path)


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:" + "A" * 42, OTHER + "A", "rsa:" + "A" * 43, f"{OTHER}\nx"])
def test_what_is_no_public_key_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadKey, match="no submitter's key"):
        public_key(text)
    with pytest.raises(BadKey):
        trust(tmp_path, text)


def test_trust_is_given_named_and_taken(tmp_path: Path) -> None:
    store = tmp_path / "store"
    third = own_signer(tmp_path / "third").public
    assert not trusts(store, OTHER)
    assert trusts(store, OTHER, more=(OTHER,))
    assert trust(store, f" {OTHER} ", "anna \n b")
    assert trust(store, third)
    assert not trust(store, OTHER)
    assert trusted(store) == [Trusted(key=third), Trusted(key=OTHER, name="anna b")]
    assert trusts(store, OTHER)
    assert distrust(store, "anna b")
    assert not distrust(store, "anna b")
    assert distrust(store, third)
    assert trusted(store) == []
    assert not trusts(store, OTHER)


def test_a_store_trusts_its_own_key(tmp_path: Path) -> None:
    signer = own_signer(tmp_path)
    assert trusts(tmp_path, signer.public)
    assert trusted(tmp_path) == []


def test_lines_that_people_broke_are_passed_over(tmp_path: Path) -> None:
    trust(tmp_path, OTHER)
    path = tmp_path / "trusted"
    path.write_text(f"# friends\n\n{OTHER[:-1]}\n" + path.read_text())
    assert trusted(tmp_path) == [Trusted(key=OTHER)]


def test_only_who_holds_a_name_is_told(tmp_path: Path) -> None:
    locks = tmp_path / "nodes"
    locks.mkdir()
    (locks / "gone.lock").write_text("999999999")
    (locks / "new.lock").touch()
    assert tell_nodes(tmp_path) == []
    assert tell_nodes(tmp_path / "nowhere") == []
