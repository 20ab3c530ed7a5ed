"""TOML that people write, with every way in which it can be none as one kind of error."""

import re
import tomllib
from pathlib import Path
from typing import Any, Final

MOST_BYTES: Final = 1024 * 1024
"""Of a file: a long one of settings has 10 KB. Reading TOML takes a hundred times a file's size for a moment."""
# Fifty names joined by dots. tomllib takes time and memory by the square of their number: of 20,000, which is 40 KB, a GB.
_DEEP: Final = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){50}""")


class NotToml(ValueError):
    """What is wrong with a file, in words."""


def read_toml(path: Path) -> dict[str, Any]:
    """The document in a file.

    Raises:
        NotToml: it is none, or larger than `MOST_BYTES`.
        OSError: it can't be read; `FileNotFoundError` where there is none.
    """
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise NotToml(f"it has more than {MOST_BYTES} bytes")
    try:
        text = data.decode()
        if _DEEP.search(text):
            raise NotToml("it nests too deep")
        return tomllib.loads(text)
    except RecursionError:
        raise NotToml("it nests too deep") from None
    except ValueError as error:  # tomllib's own error is one; it lets those of numbers with too many digits through
        raise NotToml(str(error)) from error
