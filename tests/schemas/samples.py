"""Values of every message type, made from the type alone; and the golden bytes.

`python tests/schemas/samples.py` writes `golden.json` anew, adding types and fields that are not in it yet. What is there
already is kept as it is: those are bytes that older versions have published, and every later version must read them.
"""

import enum
import json
import random
import sys
import typing
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import schemas.catalogue  # noqa: F401 - registers every type
from schemas.bundles import SHA256_PATTERN, SIGNATURE_PATTERN, SIGNER_PATTERN
from schemas.ids import TOKEN_PATTERN, WORKLOAD_PATTERN
from schemas.members import KEY_PATTERN
from schemas.wire import decode, encode, registered, subject_of

GOLDEN = Path(__file__).with_name("golden.json")
PATTERNS = {
    TOKEN_PATTERN: ("node-1", "a", "N_2", "0"),
    WORKLOAD_PATTERN: ("examples.digits:workload",),
    SHA256_PATTERN: ("0123456789abcdef" * 4,),
    SIGNER_PATTERN: ("ed25519:" + "A-_z" * 10 + "abc",),
    KEY_PATTERN: ("U" + "AZ27" * 13 + "BCD",),
    SIGNATURE_PATTERN: ("A-_z" * 21 + "ab",),
}
TEXTS = ("", "lost for 3.2 s", 'quotes " and \\', "grüße, 速度", "line\nbreak", "\x00\x7f")


def sample(kind: Any, rng: random.Random, meta: msgspec.Meta | None = None) -> Any:
    """A value of a type: any of its values may come up, `None` and empty collections too."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return sample(arguments[0], rng, next(m for m in arguments[1:] if isinstance(m, msgspec.Meta)))
    if origin is Literal:
        return rng.choice(arguments)
    if origin in (Union, UnionType):
        return sample(rng.choice(arguments), rng, meta)
    if origin is tuple:
        return tuple(sample(arguments[0], rng) for _ in range(rng.randrange(3)))
    if origin is dict:
        return {sample(arguments[0], rng): sample(arguments[1], rng) for _ in range(rng.randrange(3))}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return rng.choice(list(kind))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return instance(kind, rng)
    return plain(kind, rng, meta)


def plain(kind: Any, rng: random.Random, meta: msgspec.Meta | None) -> Any:
    """A value of a type without parts."""
    if kind is NoneType:
        return None
    if kind is bool:
        return rng.random() < 0.5
    if kind is str:
        if meta is not None and meta.pattern is not None:
            return rng.choice(PATTERNS[meta.pattern])
        return rng.choice(TEXTS)
    if kind in (int, float):
        low = max(v for v in (meta and meta.ge, meta and meta.gt, -(2**40)) if v is not None)
        high = min(v for v in (meta and meta.le, meta and meta.lt, 2**40) if v is not None)
        if kind is int:
            return rng.randint(int(low), int(high))
        return low + (high - low) * rng.uniform(0.001, 0.999)
    raise AssertionError(f"no sample for {kind}: teach `plain` to make one")


def instance(kind: type[msgspec.Struct], rng: random.Random, *, full: bool = False) -> Any:
    """A message; fields that have defaults are given in about half the cases, or always."""
    hints = typing.get_type_hints(kind, include_extras=True)
    given = {}
    for field in msgspec.structs.fields(kind):
        if field.required or full or rng.random() < 0.5:
            given[field.name] = sample(hints[field.name], rng)
    return kind(**given)


def with_what_is_new(old: Any, new: Any) -> Any:
    """The old value, with the fields that only the new one has."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {key: with_what_is_new(old[key], new.get(key)) if key in old else new[key] for key in old | new}
    if isinstance(old, list) and isinstance(new, list):
        return [with_what_is_new(*pair) for pair in zip(old, new, strict=True)]
    return old


def updated() -> dict[str, Any]:
    """What `golden.json` should hold: a full value of every type, those of earlier versions unchanged."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    for wire in registered():
        name = wire.type.__name__
        # Seeded by the name (whose hash differs from run to run), so that one type's sample doesn't depend on the others.
        message = instance(wire.type, random.Random(name), full=True)
        fields = json.loads(encode(message))
        known = golden.setdefault(name, {"subject": subject_of(message), "template": wire.template, "fields": {}})
        old = known["fields"]
        # Written again, what is there has the new fields of the structs in it, with their defaults.
        again = json.loads(encode(decode(wire.type, json.dumps(old or fields).encode())))
        known["fields"] = fields | {field: with_what_is_new(value, again.get(field)) for field, value in old.items()}
    return {name: golden[name] for name in sorted(golden)}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(updated(), indent=1, sort_keys=True) + "\n")
    print(f"{GOLDEN} is up to date")
