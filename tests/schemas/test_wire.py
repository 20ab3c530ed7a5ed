"""The registry refuses what would go wrong later; subjects and ids hold what they promise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DecodeError, SchemaError
from schemas.ids import BadIdentifier, sanitised, token
from schemas.jobs import JobRequest
from schemas.nodes import NodeHeartbeat
from schemas.wire import Delivery, Message, decode, fault, on_wire, wire_for, wire_of


def test_unknown_placeholders_are_rejected() -> None:
    with pytest.raises(SchemaError, match="nodde"):

        @on_wire("shoal.test.{nodde}.x", Delivery.TELEMETRY)
        class Wrong(Message, frozen=True, kw_only=True):
            node: str


@pytest.mark.parametrize(
    "template", ["shoal.nodes.{node}.heartbeat", "shoal.nodes.{other}.heartbeat"], ids=["the same", "another name"]
)
def test_taken_subjects_are_rejected(template: str) -> None:
    with pytest.raises(SchemaError, match="NodeHeartbeat"):

        @on_wire(template, Delivery.TELEMETRY)
        class Second(Message, frozen=True, kw_only=True):
            node: str
            other: str

    assert wire_of(NodeHeartbeat).template == "shoal.nodes.{node}.heartbeat"


@pytest.mark.parametrize("template", ["shoal..x", "shoal.*.x", "shoal.>", "shoal.a b", "", "shoal.{node", "shoal.Ä"])
def test_tokens_that_nats_would_read_otherwise_are_rejected(template: str) -> None:
    with pytest.raises(SchemaError):

        @on_wire(template, Delivery.TELEMETRY)
        class Wrong(Message, frozen=True, kw_only=True):
            node: str


def test_unregistered_types_are_named() -> None:
    class Loose(Message, frozen=True, kw_only=True):
        """Not on any wire."""

    with pytest.raises(SchemaError, match="Loose"):
        wire_of(Loose)


def test_filters_hold_only_what_the_subject_has() -> None:
    wire = wire_of(NodeHeartbeat)
    assert wire.filter(node="a") == "shoal.nodes.a.heartbeat"
    with pytest.raises(SchemaError, match="job"):
        wire.filter(job="j")


def test_subjects_of_nobody_have_no_type() -> None:
    assert wire_for("shoal.nodes.a.b.heartbeat") is None
    assert wire_for("other.nodes.a.heartbeat") is None


def test_nesting_without_end_is_a_decode_error() -> None:
    with pytest.raises(DecodeError):
        decode(NodeHeartbeat, b'{"node":' + b"[" * 100_000)


@pytest.mark.parametrize("workload", ["m:w\\n", "m", ":w", "m:", "m:w.v", "../m:w", "m w:v"])
def test_a_workload_is_a_module_and_a_name_in_it(workload: str) -> None:
    with pytest.raises(DecodeError) as told:
        decode(JobRequest, f'{{"kind": "train", "workload": "{workload}"}}'.encode())
    assert told.value.field == "$.workload"


def test_faults_name_the_path_within() -> None:
    with pytest.raises(DecodeError) as told:
        decode(JobRequest, b'{"kind": "train", "workload": "m:w", "rounds": 0}')
    assert told.value.field == "$.rounds"
    assert "1" in told.value.why
    assert fault(ValueError("something else")) == ("$", "something else")


@given(st.text())
def test_any_text_becomes_a_token(text: str) -> None:
    assert token(sanitised(text)) == sanitised(text)


@pytest.mark.parametrize("text", ["", "a.b", "a b", "*", ">", "-a", "x" * 65, "ä", "a\n"])
def test_bad_identifiers_are_told_with_the_mend(text: str) -> None:
    with pytest.raises(BadIdentifier, match="letters, digits") as told:
        token(text, "job")
    assert (told.value.text, told.value.what) == (text, "job")
