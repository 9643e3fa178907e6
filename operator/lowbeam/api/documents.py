"""Text of YAML or JSON as plain values: whatever a file holds, it gives values or `yaml.YAMLError`, nothing else.

Decides that numbers of 5,000 digits, `!!int foo`, aliases of themselves and ten thousand brackets are faults of the
text, with a line where one is known. PyYAML answers them with exceptions of its insides, or with values that contain
themselves. Reads no file.

Invariants
- YAML means what it means to kubectl: dates stay text, and a key given twice is an error.
- JSON is read as JSON: far sooner (`kubectl get nodes -o json`), and pairs of \\u escapes are one letter.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any, NoReturn

import yaml

_LONGEST_QUOTE = 40
_ACCIDENTS = (ValueError, KeyError, AttributeError, TypeError, OverflowError)
"""What PyYAML's constructors raise for a scalar that is not what its tag says."""


class KubectlLoader(yaml.SafeLoader):
    """YAML as kubectl reads it: dates stay text (kinds decide what is a date), a key given twice is an error."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.deep_construct = True  # a value is complete before it is used: one that contains itself is then an error

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML does it; a value that does not fit its tag is a fault with a position."""
        try:
            return super().construct_object(node, deep)
        except _ACCIDENTS as error:
            text = str(node.value)[:_LONGEST_QUOTE] if isinstance(node, yaml.ScalarNode) else "this"
            what = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f'"{text}" cannot be read as {what}', node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As PyYAML does it; a key given twice is a fault with a position."""
        keys: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            key = key_node.value
            if key in keys and key != "<<":
                raise yaml.constructor.ConstructorError(None, None, f'"{key}" is given twice', key_node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep)


KubectlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def documents_of(text: str) -> list[Any]:
    """Every document of a text, empty ones as None. Raises `yaml.YAMLError`."""
    try:
        return [_json(text)] if text.lstrip("\ufeff \t\r\n").startswith("{") else _yaml(text)
    except ValueError:  # no JSON, or not ours: YAML says where and why
        return _yaml(text)


def document_of(text: str) -> Any:
    """The only document of a text; None where there is none. Raises `yaml.YAMLError`."""
    documents = documents_of(text)
    if len(documents) > 1:
        raise yaml.YAMLError(f"it holds {len(documents)} documents, and only one is wanted")
    return documents[0] if documents else None


def complaint_of(error: yaml.YAMLError) -> str:
    """What is wrong with a text, in one line without its excerpt."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"is not valid YAML: character #x{error.character:04x} at position {error.position} is not allowed"
    return f"is not valid YAML: {' '.join(str(getattr(error, 'problem', None) or error).split())}"


def position_of(error: yaml.YAMLError) -> str:
    """`line 3, column 5`, or `YAML` where it is not known."""
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "YAML"


def _yaml(text: str) -> list[Any]:
    try:
        return list(yaml.load_all(text, Loader=KubectlLoader))
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def _json(text: str) -> Any:
    try:
        return json.loads(text.lstrip("\ufeff"), object_pairs_hook=_unique, parse_constant=_no_number)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)
