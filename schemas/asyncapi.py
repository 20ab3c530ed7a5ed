"""Every message as an AsyncAPI 3 document, from the registry."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import msgspec

import schemas.catalogue  # noqa: F401 - completes the registry
from schemas.wire import Delivery, Wire, registered

PROMISES = {
    Delivery.TELEMETRY: "core NATS, at most once",
    Delivery.RECORD: "JetStream, at least once; drop duplicates by `id`",
    Delivery.LAST_VALUE: "JetStream, the newest of each subject is kept",
    Delivery.REQUEST: "request and reply",
}


def document(wanted: Callable[[str], bool] = lambda pattern: True) -> dict[str, Any]:
    """The AsyncAPI 3.0 document of all messages whose subject pattern is wanted."""
    wires = [wire for wire in registered() if wanted(wire.pattern)]
    types: list[type] = [wire.type for wire in wires]
    types += [wire.answer for wire in wires if wire.answer is not None and wire.answer not in types]
    types = list(dict.fromkeys(types))
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Shoal",
            "version": "1",
            "description": "All messages of a Shoal fleet. Bodies are JSON; tensors travel on `tensor.>`, binary.",
        },
        "servers": {"local": {"host": "127.0.0.1:4222", "protocol": "nats"}},
        "channels": {wire.type.__name__: _channel(wire) for wire in wires},
        "operations": _operations(wires),
        "components": {
            "messages": {kind.__name__: _message(kind) for kind in types},
            "schemas": {name: components[name] for name in sorted(components)},
        },
    }


def _channel(wire: Wire) -> dict[str, Any]:
    channel: dict[str, Any] = {
        "address": wire.template,
        "description": f"{summary(wire.type)} ({PROMISES[wire.delivery]})",
        "messages": {wire.type.__name__: {"$ref": f"#/components/messages/{wire.type.__name__}"}},
        "x-delivery": wire.delivery.value,
    }
    if wire.fields:
        channel["parameters"] = {field: {"description": f"The message's `{field}`."} for field in wire.fields}
    return channel


def _operations(wires: list[Wire]) -> dict[str, Any]:
    """What a client may do: ask for what is answered, send what clients send, receive all else."""
    operations: dict[str, Any] = {}
    for wire in wires:
        name = wire.type.__name__
        operation: dict[str, Any] = {
            "action": "send" if wire.delivery is Delivery.REQUEST else "receive",
            "channel": {"$ref": f"#/channels/{name}"},
        }
        if wire.answer is not None:
            operation["reply"] = {
                "messages": [{"$ref": f"#/components/messages/{wire.answer.__name__}"}],
                "address": {"description": "the request's reply subject", "location": "$message.header#/reply"},
            }
        operations[f"{operation['action']}{name}"] = operation
    return operations


def _message(kind: type) -> dict[str, Any]:
    return {
        "name": kind.__name__,
        "summary": summary(kind),
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
    }


def summary(kind: type) -> str:
    """The first paragraph of a type's docstring, on one line."""
    return re.sub(r"\s+", " ", (inspect.getdoc(kind) or "").split("\n\n")[0])
