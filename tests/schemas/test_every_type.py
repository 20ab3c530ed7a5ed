"""Every registered type: its bytes, its subject, what it ignores and what it refuses."""

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import GOLDEN, instance, updated

import schemas.catalogue
from schemas.errors import DecodeError
from schemas.wire import Delivery, Message, Request, Wire, decode, encode, registered, seal, subject_of, wire_for

WIRES = tuple(registered())
EVERY = pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.type.__name__)
MEND = "if that is meant, run `python tests/schemas/samples.py` and look at the difference"


def test_the_catalogue_imports_every_module_that_declares_messages() -> None:
    known = {module.__name__ for module in schemas.catalogue.MODULES}
    assert {wire.type.__module__ for wire in WIRES} <= known


@EVERY
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_what_is_encoded_is_decoded_again(wire: Wire, seed: int) -> None:
    message = instance(wire.type, random.Random(seed))
    assert decode(wire.type, encode(message)) == message
    assert json.loads(encode(message)) == json.loads(msgspec.json.encode(msgspec.to_builtins(message)))


@EVERY
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_a_message_goes_on_a_subject_of_its_type(wire: Wire, seed: int) -> None:
    message = instance(wire.type, random.Random(seed))
    subject = subject_of(message)
    assert wire_for(subject) is wire
    tokens = subject.split(".")
    assert len(tokens) == len(wire.tokens)
    assert not any(set(token) & set("*> \t\r\n") or not token for token in tokens)
    fixed = {field: getattr(message, field) for field in wire.fields}
    assert wire.filter(**fixed) == subject
    assert wire.filter() == wire.pattern


def of_earlier(written: Any, earlier: Any) -> Any:
    """What is written, without the fields that earlier bytes had not yet, in nested values too."""
    if isinstance(written, dict) and isinstance(earlier, dict):
        return {name: of_earlier(written.get(name), value) for name, value in earlier.items()}
    if isinstance(written, list) and isinstance(earlier, list) and len(written) == len(earlier):
        return [of_earlier(mine, theirs) for mine, theirs in zip(written, earlier, strict=True)]
    return written


@EVERY
def test_golden_bytes_are_read_and_written_as_ever(wire: Wire) -> None:
    """Bytes of earlier versions decode, and every field that they had is written under the same name and form."""
    golden = json.loads(GOLDEN.read_text()).get(wire.type.__name__)
    assert golden is not None, f"{wire.type.__name__} has no golden bytes: {MEND}"
    message = decode(wire.type, json.dumps(golden["fields"]).encode())
    written = json.loads(encode(message))
    assert of_earlier(written, golden["fields"]) == golden["fields"], MEND
    assert (golden["subject"], golden["template"]) == (subject_of(message), wire.template), MEND


def test_golden_bytes_are_complete() -> None:
    assert json.loads(GOLDEN.read_text()) == updated(), MEND


@EVERY
def test_unknown_fields_of_events_are_ignored_and_of_requests_refused(wire: Wire) -> None:
    message = instance(wire.type, random.Random(1))
    newer = json.dumps(json.loads(encode(message)) | {"from_a_later_version": [1]}).encode()
    if issubclass(wire.type, Request):
        with pytest.raises(DecodeError, match="from_a_later_version"):
            decode(wire.type, newer)
    else:
        assert decode(wire.type, newer) == message


@EVERY
def test_a_wrong_field_is_named_by_its_path(wire: Wire) -> None:
    required = [field.name for field in msgspec.structs.fields(wire.type) if field.required]
    fields = json.loads(encode(instance(wire.type, random.Random(2), full=True)))
    for name in required:
        with pytest.raises(DecodeError) as told:
            decode(wire.type, json.dumps(fields | {name: object_of_wrong_type(fields[name])}).encode())
        assert told.value.field.startswith(f"$.{name}")
        with pytest.raises(DecodeError, match=name):
            decode(wire.type, json.dumps({key: value for key, value in fields.items() if key != name}).encode())
    with pytest.raises(DecodeError) as told:
        decode(wire.type, b"\xff")
    assert told.value.field == "$"


def object_of_wrong_type(value: Any) -> Any:
    """Something of another JSON type."""
    return [[]] if not isinstance(value, list) else {"not": "a list"}


@EVERY
def test_tokens_that_would_change_the_subject_are_refused(wire: Wire) -> None:
    strings = [name for name in wire.fields if wire.type.__annotations__.get(name) is not int]
    fields = json.loads(encode(instance(wire.type, random.Random(3), full=True)))
    for name in strings:
        if not isinstance(fields[name], str):
            continue
        for bad in ("a.b", "*", ">", "a b", "", "-x", "a\r\nPUB x 0", "x" * 65, "a\n"):
            with pytest.raises(DecodeError) as told:
                decode(wire.type, json.dumps(fields | {name: bad}).encode())
            assert told.value.field == f"$.{name}"


@EVERY
def test_envelopes_are_sealed_and_only_events_have_one(wire: Wire) -> None:
    assert issubclass(wire.type, Message) is (wire.delivery is not Delivery.REQUEST)
    if issubclass(wire.type, Message):
        message = seal(instance(wire.type, random.Random(4)), id="a:1:2", cause="b:3:4", at=5.0, source="a")
        read = json.loads(encode(message))
        assert (read["id"], read["cause"], read["at"], read["source"]) == ("a:1:2", "b:3:4", 5.0, "a")


@EVERY
def test_state_messages_carry_a_version(wire: Wire) -> None:
    """The streams have no order between them: a reader ignores the older of two."""
    if wire.delivery is Delivery.LAST_VALUE:
        assert "version" in wire.type.__struct_fields__


@EVERY
def test_types_and_their_public_fields_are_documented(wire: Wire) -> None:
    assert wire.type.__doc__
    assert wire.type.__doc__.strip().endswith(".")
