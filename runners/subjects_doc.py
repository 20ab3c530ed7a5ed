"""Writes docs/subjects.md, the reference of all messages, from the registry.

`python -m runners.subjects_doc > docs/subjects.md` makes it; with `--check` it only says whether the page is current.
"""

import argparse
import enum
import inspect
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from schemas import catalogue
from schemas.asyncapi import PROMISES, schemas_of, summary, types_within
from schemas.examples import examples_of
from schemas.field_docs import one_line
from schemas.ids import TOKEN_PATTERN
from schemas.wire import Answer, Delivery, Message, Wire, registered
from schemas.writers import writer_of

PAGE = Path("docs/subjects.md")
REGENERATE = "python -m runners.subjects_doc > docs/subjects.md"
ENVELOPE = Message.__struct_fields__

SHORT = {
    Delivery.TELEMETRY: "telemetry",
    Delivery.RECORD: "record",
    Delivery.LAST_VALUE: "last value",
    Delivery.AUDIT: "audit",
    Delivery.REQUEST: "request",
}

HEAD = f"""# Subjects and messages

<!-- Made by `{REGENERATE}`: change the docstrings in schemas/, not this page. -->

Everything that the parts of a fleet tell one another, and all that a client in any language needs to take part: a NATS
connection and JSON. `shoal schema` prints the same as an AsyncAPI 3 document, with JSON Schemas of all bodies.

```sh
nats sub 'shoal.>'                                        # all but tensors, as it happens
nats req shoal.jobs.submit '{{"kind": "train", "workload": "examples.digits:workload", "rounds": 5}}'
shoal events 'shoal.jobs.*.state' --past                  # what is stored, then what comes
```

In a subject, `{{node}}` and the like stand for that field of the message. Names of jobs and nodes match
`{TOKEN_PATTERN}`. Fields that are not known to a reader are to be ignored in events; in requests they are refused.
`tensor.>` carries binary chunks between job processes and is not described here.
"""


def page() -> str:
    """The whole page."""
    wires = [wire for module in catalogue.MODULES for wire in registered() if wire.type.__module__ == module.__name__]
    answers = list(dict.fromkeys(wire.answer for wire in wires if wire.answer is not None))
    types = [*(wire.type for wire in wires), *answers]
    schemas = schemas_of(types)
    kinds = types_within(types)
    sections = [HEAD, _promises(), _envelope(schemas["NodeLeaving"]), _index(wires)]
    for module in catalogue.MODULES:
        sections.append(f"## {module.__name__.rpartition('.')[2].capitalize()}\n\n{_about(module)}\n")
        sections += [_message(wire, schemas) for wire in wires if wire.type.__module__ == module.__name__]
    own = {wire.type.__name__ for wire in wires}
    sections.append("## Answers and parts\n\nWhat requests are answered with, and what messages are made of.\n")
    sections += [_part(kinds[name], schemas[name]) for name in sorted(schemas) if name not in own]
    return "\n".join(sections)


def _promises() -> str:
    lines = ["## Promises\n", "| | |", "|---|---|"]
    lines += [f"| {SHORT[delivery]} | {promise} |" for delivery, promise in PROMISES.items()]
    return "\n".join(lines) + "\n"


def _envelope(schema: Mapping[str, Any]) -> str:
    intro = (
        "## The envelope\n\nEvery message but requests and answers has these fields, too. "
        "Shoal's own parts always fill them in; a client may leave them out.\n"
    )
    return intro + "\n" + _fields(schema, ENVELOPE) + "\n"


def _index(wires: Iterable[Wire]) -> str:
    lines = ["## All subjects\n", "| subject | message | promise | written by |", "|---|---|---|---|"]
    for wire in wires:
        name = wire.type.__name__
        lines.append(f"| `{wire.template}` | {_link(name)} | {SHORT[wire.delivery]} | {_writer(wire)} |")
    return "\n".join(lines) + "\n"


def _message(wire: Wire, schemas: Mapping[str, Any]) -> str:
    name = wire.type.__name__
    answered = f", answered with {_link(wire.answer.__name__)}" if wire.answer is not None else ""
    hidden = ENVELOPE if issubclass(wire.type, Message) else ()
    shown = [field for field in wire.type.__struct_fields__ if field not in hidden]
    parts = [
        f"### {name}\n\n`{wire.template}` · {SHORT[wire.delivery]}{answered} · written by {_writer(wire)}\n",
        f"{one_line(inspect.getdoc(wire.type) or '')}\n",
        _fields(schemas[name], shown),
        _examples(wire.type),
    ]
    return "\n".join(parts)


def _part(kind: type, schema: Mapping[str, Any]) -> str:
    if issubclass(kind, enum.Enum):
        values = ", ".join(f"`{value}`" for value in schema["enum"])
        about, *said = schema["description"].split("\n\n")
        return (
            "\n".join([f"### {kind.__name__}\n\n{about} One of {values}.\n", *(f"- {line}" for line in said)]).rstrip()
            + "\n"
        )
    names = list(schema["properties"])
    examples = [_examples(kind)] if issubclass(kind, Answer) else []
    return "\n".join([f"### {kind.__name__}\n\n{summary(kind)}\n", _fields(schema, names), *examples])


def _fields(schema: Mapping[str, Any], names: Iterable[str]) -> str:
    """A table of fields; those without which a message doesn't decode in bold."""
    rows = []
    for name in names:
        field = schema["properties"][name]
        shown = f"**`{name}`**" if name in schema.get("required", ()) else f"`{name}`"
        about = field.get("description", "")
        if field.get("default") not in (None, "", (), []):
            about = f"{about} Default: `{msgspec.json.encode(field['default']).decode()}`.".strip()
        rows.append(f"| {shown} | {_type(field)} | {about} |".replace("  |", " |"))
    if not rows:
        return "No fields.\n"
    return "\n".join(["| field | type | |", "|---|---|---|", *rows]) + "\n"


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON Schema in words."""
    if "$ref" in schema:
        return _link(schema["$ref"].rpartition("/")[2])
    for union in ("anyOf", "allOf"):
        if union in schema:
            return " or ".join(_type(part) for part in schema[union])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema['items'])}"
        case "object":
            return f"object: {_type(schema['additionalProperties'])} by name"
        case "string" if "pattern" in schema:
            return "name" if schema["pattern"] == TOKEN_PATTERN else f"text like `{schema['pattern']}`"
        case "string":
            return "text"
        case other:
            return f"{other}{_bounds(schema)}"


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    said = [f"{sign} {schema[key]:,}" for key, sign in signs if key in schema]
    return f" {', '.join(said)}" if said else ""


def _examples(kind: type[msgspec.Struct]) -> str:
    bodies = [msgspec.json.format(msgspec.json.encode(body), indent=2).decode() for body in examples_of(kind)]
    return "\n".join(f"```json\n{body}\n```\n" for body in bodies)


def _writer(wire: Wire) -> str:
    writer = writer_of(wire.type)
    return writer if " " in writer else f"`{writer}`"


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _about(module: ModuleType) -> str:
    return one_line((inspect.getdoc(module) or "").split("\n\n")[0])


def main(argv: list[str] | None = None) -> int:
    """Print the page, or with `--check` say whether the file is current (exit status 1 where it isn't)."""
    parser = argparse.ArgumentParser(prog="python -m runners.subjects_doc", description="The reference of all messages.")
    parser.add_argument("--check", action="store_true", help=f"only compare with {PAGE}")
    made = page()
    if not parser.parse_args(argv).check:
        sys.stdout.write(made)
        return 0
    if PAGE.exists() and PAGE.read_text() == made:
        return 0
    print(f"{PAGE} is not what the schemas say now: run {REGENERATE}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
