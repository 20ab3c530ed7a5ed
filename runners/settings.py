"""Settings of agents from `shoal.toml`, one section an agent; what isn't there has its default."""

import difflib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from runners.toml_file import NotToml, read_toml
from schemas.errors import ShoalError

FILE = "shoal.toml"

S = TypeVar("S", bound=msgspec.Struct)


class BadSettings(ShoalError):
    """`shoal.toml` can't be used. Attributes: `path`, `why`."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


def load_settings(kind: type[S], section: str, store: Path, **facts: Any) -> S:
    """An agent's settings: its section of the `shoal.toml` beside the store, over defaults, under `facts`.

    Raises:
        BadSettings: no TOML, an unknown setting, or a value of the wrong type.
    """
    path = store.resolve().parent / FILE
    given = _section(path, section)
    unknown = sorted(set(given) - set(kind.__struct_fields__))
    if unknown:
        close = difflib.get_close_matches(unknown[0], kind.__struct_fields__, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(kind.__struct_fields__)}"
        raise BadSettings(path, f"[{section}] has no setting {unknown[0]}: {hint}")
    try:
        return msgspec.convert(given | facts, kind)
    except msgspec.ValidationError as error:
        raise BadSettings(path, f"[{section}] {error}") from error


def _section(path: Path, section: str) -> dict[str, Any]:
    try:
        document = read_toml(path)
    except FileNotFoundError:
        return {}
    except NotToml as error:
        raise BadSettings(path, f"is no TOML: {error}") from error
    found = document.get(section, {})
    if not isinstance(found, dict):
        raise BadSettings(path, f"{section} must be a section: write [{section}]")
    return found
