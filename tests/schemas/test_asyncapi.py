"""The AsyncAPI document: its structure by the rules of AsyncAPI 3.0, its contents by the registry and the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.asyncapi import document
from schemas.errors import SchemaError
from schemas.examples import examples_of
from schemas.field_docs import field_docs
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.wire import Message, decode, encode, registered, subject_of, wire_for, wire_of
from schemas.writers import SPEAKERS, SPEAKING_AGENT, writer_of

ROOT = Path(__file__).parents[2]
WIRES = list(registered())
SEGMENT = re.compile(r"^[A-Za-z0-9._-]+$")  # what AsyncAPI allows as the name of a component

# Where each speaker's code is; who isn't here speaks from outside (clients) or from the hosts.
HOMES = {
    "job_desk": "agents/job_desk",
    "recorder": "agents/recorder",
    "node/<node>": "agents/node",
    "network_monitor": "agents/network_monitor",
    "node_selector": "agents/node_selector",
    "batch_controller": "agents/batch_controller",
    "optimizer": "agents/optimizer",
    "failure_detector": "agents/failure_detector",
    "appraiser": "agents/appraiser",
    "healer": "agents/healer",
    "predictor": "agents/predictor",
    "trainer/<job>/<node>": "agents/trainer",
    "reducer/<job>/<node>": "agents/reducer",
    "emulator/<node>": "bus/shaping",
}


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """The document as a reader gets it."""
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document()))
    return decoded


def references(node: Any) -> Iterator[str]:
    """Every `$ref` under a node."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(made: dict[str, Any], reference: str) -> Any:
    """What a reference points to; `KeyError` where there is nothing."""
    assert reference.startswith("#/"), reference
    found: Any = made
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def test_every_reference_leads_somewhere(made: dict[str, Any]) -> None:
    found = list(references(made))
    assert len(found) > len(WIRES)
    for reference in found:
        assert resolve(made, reference), reference


def test_each_registered_type_has_a_channel_on_its_subject(made: dict[str, Any]) -> None:
    addresses = {name: channel["address"] for name, channel in made["channels"].items() if channel["address"] is not None}
    assert addresses == {wire.type.__name__: wire.template for wire in WIRES}


def test_parameters_are_those_of_the_address(made: dict[str, Any]) -> None:
    for name, channel in made["channels"].items():
        in_address = set(re.findall(r"\{(\w+)\}", channel["address"] or ""))
        assert set(channel.get("parameters", {})) == in_address, name
        assert all(parameter["description"] for parameter in channel.get("parameters", {}).values())


def test_operations_use_the_messages_of_their_own_channels(made: dict[str, Any]) -> None:
    assert made["operations"]
    for name, operation in made["operations"].items():
        assert operation["action"] in ("send", "receive")
        assert name.startswith(operation["action"])
        for part in (operation, *([operation["reply"]] if "reply" in operation else [])):
            channel = part["channel"]["$ref"]
            assert all(message["$ref"].startswith(f"{channel}/messages/") for message in part["messages"]), name
            assert "address" not in part or resolve(made, channel)["address"] is None, name


def test_every_request_has_a_reply_and_nothing_else_has(made: dict[str, Any]) -> None:
    replied = {name for name, operation in made["operations"].items() if "reply" in operation}
    assert replied == {f"send{wire.type.__name__}" for wire in WIRES if wire.answer is not None}
    assert "receiveJobRequest" not in made["operations"]
    assert {"sendLinkOrder", "receiveLinkOrder"} <= set(made["operations"])


def test_names_of_components_are_allowed(made: dict[str, Any]) -> None:
    for kind in ("messages", "schemas"):
        assert all(SEGMENT.match(name) for name in made["components"][kind])


def test_schemas_keep_the_fields_own_words(made: dict[str, Any]) -> None:
    state = made["components"]["schemas"]["JobState"]["properties"]
    assert state["round"]["description"] == "Rounds closed so far."
    assert state["request"] == {
        "allOf": [{"$ref": "#/components/schemas/JobRequest"}],
        "description": "The whole request, so that whoever starts late knows all of it.",
    }
    assert state["source"]["description"].startswith("Who speaks")
    phases = made["components"]["schemas"]["JobPhase"]
    assert phases["enum"] == [phase.value for phase in JobPhase]
    assert "`queued`: Accepted" in phases["description"]


def test_field_docs_are_read_from_all_base_classes_and_missing_ones_are_left_out() -> None:
    docs = field_docs(JobState)
    assert docs["cause"].startswith("The id of the event")
    assert docs["loss"] == "Training loss of the last round."
    assert "job" not in docs
    local = msgspec.defstruct("Local", [("x", int)])  # a class without source
    assert field_docs(local) == {}


def test_a_filter_keeps_what_matches_and_all_that_it_refers_to() -> None:
    made = document(lambda pattern: pattern == "shoal.jobs.submit")
    assert set(made["channels"]) == {"JobRequest", "JobAnswer"}
    assert set(made["components"]["messages"]) == {"JobRequest", "JobAnswer"}
    for reference in references(made):
        resolve(made, reference)


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.type.__name__)
def test_examples_are_messages(wire: Any, made: dict[str, Any]) -> None:
    for body in examples_of(wire.type):
        message = decode(wire.type, msgspec.json.encode(body))
        assert wire_for(subject_of(message)) is wire
        assert decode(wire.type, encode(message)) == message
        if isinstance(message, Message):
            assert set(body) >= set(Message.__struct_fields__)
        properties = made["components"]["schemas"][wire.type.__name__]["properties"]
        assert set(body) <= set(properties)
    answers = examples_of(wire.answer) if wire.answer is not None else []
    for body in answers:
        assert msgspec.convert(body, wire.answer)


def test_examples_hold_no_filler() -> None:
    """A text field whose example is a mere `text` wants a line in schemas/examples.py."""
    for wire in WIRES:
        for body in examples_of(wire.type):
            assert '"text"' not in msgspec.json.encode(body).decode(), wire.type.__name__


def test_every_message_has_one_writer() -> None:
    listed = [kind for kinds in SPEAKERS.values() for kind in kinds]
    assert len(listed) == len(set(listed))
    assert set(listed) == {wire.type for wire in WIRES}
    with pytest.raises(SchemaError, match=r"writers\.py"):
        writer_of(Message)


@pytest.mark.parametrize(("writer", "home"), HOMES.items())
def test_agents_say_what_the_table_of_writers_says(writer: str, home: str) -> None:
    """What an agent's code makes is in its list, and its list is in its code."""
    made = {name for file in (ROOT / home).rglob("*.py") for name in _called(file)}
    own = {kind.__name__ for kind in SPEAKERS[writer]}
    hosts = {kind.__name__ for kind in SPEAKERS[SPEAKING_AGENT]} | {"MessageRejected"}
    messages = {wire.type.__name__ for wire in WIRES if issubclass(wire.type, Message)}
    assert own <= made, "these are in nobody's code"
    assert made & messages <= own | hosts, "these are not this agent's to say"


def _called(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def test_requests_refuse_unknown_fields_in_the_schema_too(made: dict[str, Any]) -> None:
    assert made["components"]["schemas"]["JobRequest"]["additionalProperties"] is False
    assert "additionalProperties" not in made["components"]["schemas"]["JobState"]
    assert wire_of(JobRequest).template == "shoal.jobs.submit"
