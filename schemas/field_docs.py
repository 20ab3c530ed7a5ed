"""What the fields of a message mean: the docstring under each field, read from the class's source."""

import ast
import enum
import inspect
import re
import sys
from functools import cache

import msgspec


def field_docs(kind: type) -> dict[str, str]:
    """The docstring under each field of a struct, or under each member of an enumeration, on one line; inherited ones too.

    Fields without one, and all of a class whose source isn't at hand, are left out.
    """
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, msgspec.Struct | enum.Enum):
            docs.update(_docs_of_module(base.__module__).get(base.__qualname__, {}))
    return docs


@cache
def _docs_of_module(name: str) -> dict[str, dict[str, str]]:
    """By class, at the top level of a module: the docstrings under its assignments."""
    try:
        source = inspect.getsource(sys.modules[name])
    except (OSError, TypeError):
        return {}
    return {node.name: _docs_of_class(node) for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


def _docs_of_class(node: ast.ClassDef) -> dict[str, str]:
    docs: dict[str, str] = {}
    for statement, following in zip(node.body, node.body[1:], strict=False):
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            text = following.value.value
            name = _assigned(statement)
            if name is not None and isinstance(text, str):
                docs[name] = one_line(text)
    return docs


def _assigned(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None


def one_line(text: str) -> str:
    """Text with every run of white space as one space."""
    return re.sub(r"\s+", " ", text).strip()
