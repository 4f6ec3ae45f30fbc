"""YAML as job files mean it: text stays text until the field that it goes to says what it is.

So `affinity: on` is the word `on` and `learning_rate: 5e-5` a number, which YAML 1.1 sees otherwise. Scalars
and mappings know their line; a key that comes twice and a second document are errors.
"""

from __future__ import annotations

from typing import Any

import yaml

from .errors import JobFileError, Violation

# More than any job file has; aliases can make few lines into many.
LIMIT = 200_000
DEPTH = 64


class Text(str):
    """A scalar as written, where it stands, and whether it stands without quotes."""

    line: int
    plain: bool

    def __new__(cls, text: str, line: int, plain: bool) -> Text:
        self = super().__new__(cls, text)
        self.line, self.plain = line, plain
        return self


class Map(dict[str, Any]):
    """A mapping and its line."""

    line = 0


class Items(list[Any]):
    """A list and its line."""

    line = 0


def is_null(value: Any) -> bool:
    """Whether a value says that there is none."""
    return value is None or (isinstance(value, Text) and value.plain and value in ("", "~", "null", "Null", "NULL"))


def load(text: str) -> Any:
    """The only document of a text, of Map, Items and Text. Errors: JobFileError with the line."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise JobFileError([Violation("", error.problem or str(error), mark.line + 1 if mark else 0)]) from None
    except yaml.YAMLError as error:
        raise JobFileError([Violation("", str(error))]) from None
    if node is None:
        raise JobFileError([Violation("", "is empty, expected a mapping with `name`, `backbone` and `tasks`")])
    return _Reader().read(node, 0)


class _Reader:
    def __init__(self) -> None:
        self.seen = 0

    def read(self, node: Any, depth: int) -> Any:
        line = node.start_mark.line + 1
        self.seen += 1
        if self.seen > LIMIT or depth > DEPTH:
            raise JobFileError([Violation("", "is too large or nested too deep for a job file", line)])
        if isinstance(node, yaml.ScalarNode):
            value: Any = Text(node.value, line, node.style is None)
        elif isinstance(node, yaml.SequenceNode):
            value = Items(self.read(item, depth + 1) for item in node.value)
            value.line = line
        else:
            value = self._map(node, line, depth)
        if node.tag and node.tag.startswith("!") and node.tag != "!":
            # `!lora {rank: 4}` is `lora: {rank: 4}`.
            tagged = Map({node.tag[1:]: value})
            tagged.line = line
            return tagged
        return value

    def _map(self, node: Any, line: int, depth: int) -> Map:
        found = Map()
        found.line = line
        merged: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise JobFileError([Violation("", "a key has to be a word", key.start_mark.line + 1)])
            value = self.read(item, depth + 1)
            if key.value == "<<" and key.style is None:
                for one in value if isinstance(value, Items) else [value]:
                    merged = {**(one if isinstance(one, Map) else {}), **merged}
                continue
            if key.value in found:
                raise JobFileError([Violation(key.value, "is there twice", key.start_mark.line + 1)])
            found[key.value] = value
        for name, value in merged.items():
            found.setdefault(name, value)
        return found
