"""Every message as an AsyncAPI 3 document, from the registry."""

import enum
import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any

import msgspec

import schemas.catalogue  # noqa: F401 - completes the registry
from schemas.examples import examples_of
from schemas.field_docs import field_docs, one_line
from schemas.wire import Delivery, Wire, registered
from schemas.writers import CLIENT, writer_of

PROMISES = {
    Delivery.TELEMETRY: "core NATS, at most once",
    Delivery.RECORD: "JetStream, at least once; drop duplicates by `id`",
    Delivery.LAST_VALUE: "JetStream, the newest of each subject is kept",
    Delivery.AUDIT: "JetStream, in a stream that nobody may purge or delete from",
    Delivery.REQUEST: "request and reply",
}


def document(wanted: Callable[[str], bool] = lambda pattern: True) -> dict[str, Any]:
    """The AsyncAPI 3.0 document of all messages whose subject pattern is wanted."""
    wires = [wire for wire in registered() if wanted(wire.pattern)]
    answers = list(dict.fromkeys(wire.answer for wire in wires if wire.answer is not None))
    types = [*(wire.type for wire in wires), *answers]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Shoal",
            "version": _version(),
            "description": "All messages of a Shoal fleet. Bodies are JSON; tensors travel on `tensor.>`, binary.",
        },
        "defaultContentType": "application/json",
        "servers": {"local": {"host": "127.0.0.1:4222", "protocol": "nats"}},
        "channels": {
            **{wire.type.__name__: _channel(wire) for wire in wires},
            **{answer.__name__: _answer_channel(answer) for answer in answers},
        },
        "operations": _operations(wires),
        "components": {"messages": {kind.__name__: _message(kind) for kind in types}, "schemas": schemas_of(types)},
    }


def schemas_of(types: Iterable[type]) -> dict[str, Any]:
    """JSON Schemas of types and all that they are made of, by name; with the fields' own docstrings."""
    wanted = tuple(types)
    _, components = msgspec.json.schema_components(wanted, ref_template="#/components/schemas/{name}")
    kinds = types_within(wanted)
    return {name: _described(components[name], kinds[name]) for name in sorted(components)}


def types_within(types: Iterable[type]) -> dict[str, type]:
    """Structs and enumerations by name: the given ones and those that their fields hold."""
    found: dict[str, type] = {}
    waiting: list[Any] = list(msgspec.inspect.multi_type_info(types))
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls.__name__ not in found:
                found[info.cls.__name__] = info.cls
                waiting += [field.type for field in info.fields]
        elif isinstance(info, msgspec.inspect.EnumType):
            found[info.cls.__name__] = info.cls
        elif isinstance(info, msgspec.inspect.UnionType):
            waiting += info.types
        else:
            parts = ("type", "item_type", "key_type", "value_type")
            waiting += [getattr(info, part) for part in parts if hasattr(info, part)]
    return found


def _described(schema: Mapping[str, Any], kind: type) -> dict[str, Any]:
    docs = field_docs(kind)
    described = {**schema, "description": inspect.getdoc(kind) or ""}
    if issubclass(kind, enum.Enum):
        described["enum"] = [member.value for member in kind]  # in the order of declaration, which often means something
        said = [f"`{kind[name].value}`: {text}" for name, text in docs.items()]
        described["description"] = "\n\n".join([described["description"], *said])
        return described
    described["properties"] = {
        name: _with_description(field, docs[name]) if name in docs else field
        for name, field in schema.get("properties", {}).items()
    }
    return described


def _with_description(field: Mapping[str, Any], text: str) -> dict[str, Any]:
    if "$ref" in field:  # what stands beside a reference is not read by tools of older JSON Schema drafts
        return {"allOf": [{"$ref": field["$ref"]}], "description": text, **{k: v for k, v in field.items() if k != "$ref"}}
    return {**field, "description": text}


def _channel(wire: Wire) -> dict[str, Any]:
    name = wire.type.__name__
    channel: dict[str, Any] = {
        "address": wire.template,
        "description": f"{summary(wire.type)} ({PROMISES[wire.delivery]})",
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "x-delivery": wire.delivery.value,
        "x-writer": writer_of(wire.type),
    }
    if wire.fields:
        docs = field_docs(wire.type)
        channel["parameters"] = {
            field: {"description": docs.get(field, f"The message's `{field}`.")} for field in wire.fields
        }
    return channel


def _answer_channel(answer: type) -> dict[str, Any]:
    """The reply subject of a request: known only once it is made."""
    return {
        "address": None,
        "description": summary(answer),
        "messages": {answer.__name__: {"$ref": f"#/components/messages/{answer.__name__}"}},
    }


def _operations(wires: list[Wire]) -> dict[str, Any]:
    """What a client may do: ask for what is answered, send what clients send, receive all that isn't a request."""
    operations: dict[str, Any] = {}
    for wire in wires:
        name = wire.type.__name__
        if writer_of(wire.type) == CLIENT:
            operations[f"send{name}"] = _operation("send", name)
        if wire.delivery is not Delivery.REQUEST:
            operations[f"receive{name}"] = _operation("receive", name)
        if wire.answer is not None:
            answer = wire.answer.__name__
            operations[f"send{name}"]["reply"] = {
                "address": {"description": "the request's reply subject", "location": "$message.header#/reply"},
                "channel": {"$ref": f"#/channels/{answer}"},
                "messages": [{"$ref": f"#/channels/{answer}/messages/{answer}"}],
            }
    return operations


def _operation(action: str, name: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
    }


def _message(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        "name": kind.__name__,
        "summary": summary(kind),
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "examples": [{"payload": body} for body in examples_of(kind)],
    }


def summary(kind: type) -> str:
    """The first paragraph of a type's docstring, on one line."""
    return one_line((inspect.getdoc(kind) or "").split("\n\n")[0])


def _version() -> str:
    try:
        return metadata.version("shoal")
    except metadata.PackageNotFoundError:
        return "0"
