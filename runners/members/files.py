"""Where a machine keeps who it is, and the server's host who belongs: `<store>/members/`, readable by this user only."""

import contextlib
from pathlib import Path

import msgspec

from bus.credentials import Credentials, read_secret, write_private
from bus.several import each_of, place_of
from runners.members.register import OPERATOR, Register
from schemas.errors import FAULTS, ShoalError
from schemas.members import Role

_FOLDER = "members"
_REGISTER = "register.json"
_FIRST = (Role.OPERATOR, Role.SUBMITTER, Role.NODE, Role.DASHBOARD)
"""As whom commands speak where a store has several: whoever may do most."""


class BadRegister(ShoalError):
    """The register can't be read. Attribute: `path`."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} is damaged ({why}): put a copy back, or remove it and invite everybody anew")
        self.path = path


def member_file(store: Path, name: str) -> Path:
    """Where a member of this machine has its credentials."""
    return store / _FOLDER / f"{name}.json"


def has_register(store: Path) -> bool:
    """Whether the fleet of this store's server has members rather than a token."""
    return (store / _FOLDER / _REGISTER).exists()


def load_register(store: Path) -> Register:
    """What was saved last; a new one if nothing was. Raises `BadRegister`."""
    path = store / _FOLDER / _REGISTER
    try:
        return msgspec.json.decode(path.read_bytes(), type=Register)
    except FileNotFoundError:
        return Register()
    except FAULTS as error:
        raise BadRegister(path, str(error)) from None


def save_register(store: Path, register: Register) -> None:
    """On the disk when this returns."""
    write_private(store / _FOLDER / _REGISTER, msgspec.json.format(msgspec.json.encode(register), indent=1))


def own_file(store: Path) -> Path | None:
    """The operator's credentials, where this store is of a server with members."""
    path = member_file(store, OPERATOR)
    return path if has_register(store) and path.exists() else None


def joined_as(store: Path, role: Role | None = None) -> list[tuple[Path, Credentials]]:
    """Whom this machine has joined as, who may do most first."""
    found = []
    for path in sorted((store / _FOLDER).glob("*.json")):
        if path.name == _REGISTER:
            continue
        with contextlib.suppress(ShoalError, OSError):
            held = read_secret(path)
            if isinstance(held, Credentials) and held.server and (role is None or held.role == role.value):
                found.append((path, held))
    ranks = [one.value for one in _FIRST]
    return sorted(found, key=lambda one: ranks.index(one[1].role) if one[1].role in ranks else len(ranks))


def known_at(store: Path, url: str) -> Path | None:
    """The credentials of this machine for the server at `url`."""
    wanted = {place_of(one) for one in each_of(url)}
    for path, held in joined_as(store):
        if not wanted.isdisjoint(place_of(one) for one in each_of(held.server)):
            return path
    return None
