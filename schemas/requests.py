"""Client requests, decoded for an answer that a person understands: which field is at fault, and what was meant."""

import difflib
import re
from typing import Any, TypeVar

import msgspec

from schemas.errors import FAULTS, DecodeError
from schemas.wire import Answer, Request, decode

R = TypeVar("R", bound=Request)

# Bytes. The largest honest request, with hundreds of node names in it, is some 20 KiB; what is larger is a mistake.
MAX_REQUEST = 64 * 1024

_UNKNOWN = re.compile(r"^Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(.*)`$")
_SHOWN = 64
"""Characters of a client's own words that an answer repeats."""


class Refusal(Answer, frozen=True, kw_only=True):
    """The general answer to a request that can't be taken: the field at fault, and why."""

    accepted: bool
    """Always false."""
    field: str
    reason: str
    retry_after: float | None = None
    """Seconds after which the same request may be taken; null where it never will."""


def decode_request(kind: type[R], data: bytes) -> R:
    """The request in `data`.

    Raises:
        DecodeError: with the JSON path of the field at fault, `$` where the bytes as a whole are no such request, and a
            reason in a client's terms ("unknown field; did you mean `rounds`?").
    """
    if len(data) > MAX_REQUEST:
        raise DecodeError("$", f"too large: {len(data)} bytes, at most {MAX_REQUEST} are taken")
    try:
        return decode(kind, data)
    except DecodeError as error:
        raise DecodeError(*_explained(kind, data, error)) from error


def _explained(kind: type[msgspec.Struct], data: bytes, error: DecodeError) -> tuple[str, str]:
    """(field, reason) in a client's terms."""
    unknown = _UNKNOWN.match(error.why)
    if unknown:
        name = unknown[1]
        near = difflib.get_close_matches(name, kind.__struct_fields__, n=1)
        return f"{error.field}.{name[:_SHOWN]}", f"unknown field; did you mean `{near[0]}`?" if near else "unknown field"
    missing = _MISSING.match(error.why)
    if missing:
        return f"{error.field}.{missing[1]}", "required"
    if error.field == "$":
        return "$", error.why if _is_json(data) else "not JSON: " + error.why
    return error.field, error.why


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=Any)
    except FAULTS:
        return False
    return True
