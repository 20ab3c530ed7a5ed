"""A job file: TOML with the fields of a request, and `files`, which say what a bundle takes along."""

from pathlib import Path
from typing import Any

import msgspec

from runners.toml_file import NotToml, read_toml
from schemas.errors import ShoalError
from schemas.jobs import JobRequest
from schemas.requests import decode_request


class BadJobFile(ShoalError):
    """A job file that can't be read. Attribute: `path`."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(why)
        self.path = path


def read_job_file(path: Path) -> dict[str, Any]:
    """What it says, not yet looked at.

    Raises:
        BadJobFile: there is none, it can't be read, or it is no TOML.
    """
    try:
        return read_toml(path)
    except FileNotFoundError:
        raise BadJobFile(path, f"no file {path}: write one (see examples/digits.toml)") from None
    except OSError as error:
        raise BadJobFile(path, f"{path} can't be read: {error.strerror or error}") from None
    except NotToml as error:
        raise BadJobFile(path, f"{path} is no TOML: {error}") from None


def request_in(document: dict[str, Any]) -> JobRequest:
    """The request in a job file. Raises `DecodeError`."""
    return decode_request(JobRequest, msgspec.json.encode(document))
