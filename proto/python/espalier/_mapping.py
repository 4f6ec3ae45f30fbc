"""Fills messages from the tree of a job file: names by the descriptors, and a table of rules where shapes differ.

`jobfile` says what the rules mean; the tests hold them to the job file's schema.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from . import _yaml
from .errors import Violation

Rule = Callable[["Filler", Any, Any, str], None]

# Fields of messages that a job file writes otherwise; a rule fills each of them.
HIDDEN = {
    "Data": {"input_column", "pair_column", "negative_column", "label_column", "skip_missing_labels"},
    "Adaptation": {"target_train"},
    "Loss": {"balanced_class_weights"},
    "ZeroShot": {"descriptions_file"},
    "Optimizer": {"beta1", "beta2"},
    "Prompt": {"text"},
}
# Counts of which 0 means the default on the wire, while a job file that says 0 means a mistake.
COUNTS = {("Backbone", "max_tokens"), ("Training", "batch_size"), ("Training", "accumulation"), ("EvaluationPolicy", "batch_size"), ("Balancer", "update_every")}

FLAGS = {"true": True, "yes": True, "on": True, "y": True, "false": False, "no": False, "off": False, "n": False}
INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}
FLOATS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}
WHOLE = re.compile(r"[-+]?(0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+|[0-9][0-9_]*)")
REAL = re.compile(r"[-+]?(\.?[0-9][0-9_]*|[0-9][0-9_]*\.[0-9_]*)([eE][-+]?[0-9]+)?")
ODD = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}


class WrongError(Exception):
    """A value that its field does not take."""


def is_choice(message: Descriptor) -> bool:
    """Whether a message is one of several things and nothing else, such as Tuning."""
    # An `optional` field is alone in a oneof of its own.
    return len(message.oneofs) == 1 and 1 < len(message.oneofs[0].fields) == len(message.fields)


def known_fields(message: Descriptor) -> list[str]:
    """The names that a job file knows of a message's fields."""
    hidden = HIDDEN.get(message.name, set())
    own = [field.name for field in message.fields if field.name not in hidden]
    return own + [name for owner, name in RULES if owner == message.name and name not in own]


class Filler:
    """Fills messages and collects what is wrong with each field."""

    def __init__(self, bad: list[Violation]) -> None:
        self.bad = bad

    def wrong(self, path: str, message: str, value: Any = None) -> None:
        self.bad.append(Violation(path, message, getattr(value, "line", 0)))

    def fill(self, message: Any, value: Any, path: str) -> None:
        """A message from a mapping."""
        if not isinstance(value, Mapping):
            return self.wrong(path, "expected a mapping (`field: value`)", value)
        message.SetInParent()
        owner: Descriptor = message.DESCRIPTOR
        known = known_fields(owner)
        for key, item in value.items():
            name, at = str(key), f"{path}.{key}" if path else str(key)
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                advice = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(sorted(known))}"
                self.wrong(at, f"is no known field; {advice}", item if getattr(item, "line", 0) else value)
            elif not _yaml.is_null(item):
                rule = RULES.get((owner.name, name))
                rule(self, message, item, at) if rule else self.set(message, owner.fields_by_name[name], item, at)

    def set(self, message: Any, field: FieldDescriptor, value: Any, path: str) -> None:
        """A field from a value."""
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            self.entries(getattr(message, field.name), field, value, path)
        elif field.is_repeated:
            if not isinstance(value, (list, tuple)):
                return self.wrong(path, "expected a list", value)
            for index, item in enumerate(value):
                self.append(getattr(message, field.name), field, item, f"{path}[{index}]")
        elif entry is not None:
            part = getattr(message, field.name)
            self.choose(part, value, path) if is_choice(entry) else self.fill(part, value, path)
        else:
            self.put(lambda found: setattr(message, field.name, found), field, value, path)

    def append(self, items: Any, field: FieldDescriptor, value: Any, path: str) -> None:
        """One more entry of a list."""
        if field.message_type is not None:
            self.fill(items.add(), value, path)
        else:
            self.put(items.append, field, value, path)

    def entries(self, entries: Any, field: Any, value: Any, path: str) -> None:
        """The entries of a map."""
        if not isinstance(value, Mapping):
            return self.wrong(path, "expected a mapping (`name: value`)", value)
        kind = field.message_type.fields_by_name["value"]
        for key, item in value.items():
            self.put(partial(entries.__setitem__, str(key)), kind, item, f"{path}.{key}")

    def put(self, store: Callable[[Any], None], field: FieldDescriptor, value: Any, path: str) -> None:
        """A single value into its place."""
        try:
            found = scalar(field, value)
            if found == 0 and field.containing_type is not None and (field.containing_type.name, field.name) in COUNTS:
                raise WrongError("is 0, expected at least 1")
            store(found)
        except WrongError as error:
            self.wrong(path, str(error), value)
        except (ValueError, OverflowError):
            self.wrong(path, f"is {value}, which is out of range", value)

    def choose(self, message: Any, value: Any, path: str) -> None:
        """One of several things: a word, or a mapping of one word to what it needs."""
        owner: Descriptor = message.DESCRIPTOR
        known = ", ".join(field.name for field in owner.fields)
        if isinstance(value, str):
            name, inner = str(value), None
        elif isinstance(value, Mapping) and len(value) == 1:
            [(name, inner)] = value.items()
        else:
            return self.wrong(path, f"expected one of {known}", value)
        field = owner.fields_by_name.get(name)
        if field is None:
            return self.wrong(path, f"{name!r} is not known, expected one of {known}", value)
        at, empty = f"{path}.{name}", field.message_type is not None and not field.message_type.fields
        if empty and _yaml.is_null(inner):
            getattr(message, name).SetInParent()
        elif empty:
            self.wrong(at, "takes nothing", inner)
        elif _yaml.is_null(inner):
            self.wrong(at, "expected a mapping (`field: value`)" if field.message_type else "expected a value", value)
        elif (rule := RULES.get((owner.name, name))) is not None:
            rule(self, message, inner, at)
        else:
            self.set(message, field, inner, at)


def scalar(field: FieldDescriptor, value: Any) -> Any:
    """A value as its field takes it. Errors: WrongError with what was expected."""
    if isinstance(value, (Mapping, list, tuple)):
        raise WrongError("expected a single value")
    if field.enum_type is not None:
        return word(field, value)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return flag(value)
    if field.cpp_type in INTEGERS:
        text = str(value)
        if isinstance(value, (bool, float)) or not WHOLE.fullmatch(text):
            raise WrongError(f"is {value!r}, expected a whole number")
        prefixed = text.lstrip("+-")[:2] in ("0x", "0o", "0b")
        return int(text.replace("_", ""), 0 if prefixed else 10)
    if field.cpp_type in FLOATS:
        text = str(value).strip()
        if isinstance(value, float):
            return value
        if text.lower() in ODD:
            return ODD[text.lower()]
        if isinstance(value, bool) or not REAL.fullmatch(text):
            raise WrongError(f"is {value!r}, expected a number")
        return float(text.replace("_", ""))
    if isinstance(value, (bool, float)) or value is None:
        raise WrongError(f"is {value!r}, expected text: put it in quotes")
    return str(value)


def word(field: Any, value: Any) -> int:
    """The number of an enum's value by its word in a job file."""
    values = field.enum_type.values
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    words = {one.name.removeprefix(prefix).lower(): one.number for one in values[1:]}
    # YAML 1.1 loaders hand `on` and `off` over as true and false.
    name = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
    if not isinstance(name, str) or name not in words:
        raise WrongError(f"is {value!r}, expected one of {', '.join(words)}")
    return words[str(name)]


def flag(value: Any) -> bool:
    """True or false."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in FLAGS:
        return FLAGS[value.lower()]
    raise WrongError(f"is {value!r}, expected true or false")


def _balancer(filler: Filler, message: Any, value: Any, path: str) -> None:
    if isinstance(value, str):
        message.balancer.method = str(value)
    else:
        filler.fill(message.balancer, value, path)


def _files(field: str) -> Rule:
    def rule(filler: Filler, message: Any, value: Any, path: str) -> None:
        one = isinstance(value, str) or hasattr(value, "__fspath__")
        filler.set(message, message.DESCRIPTOR.fields_by_name[field], [value] if one else value, path)

    return rule


def _columns(filler: Filler, message: Any, value: Any, path: str) -> None:
    fields = message.DESCRIPTOR.fields_by_name
    names = {name: fields[f"{name}_column"] for name in ["input", "pair", "negative", "label"]}
    _parts(filler, message, value, path, names)


def _target(filler: Filler, message: Any, value: Any, path: str) -> None:
    if not isinstance(value, Mapping) or set(value) != {"train"}:
        return filler.wrong(path, "expected a mapping with `train` alone", value)
    _files("target_train")(filler, message, value["train"], f"{path}.train")


def _parts(filler: Filler, message: Any, value: Any, path: str, names: Mapping[str, FieldDescriptor]) -> None:
    if not isinstance(value, Mapping):
        return filler.wrong(path, f"expected a mapping with {', '.join(names)}", value)
    for key, item in value.items():
        if str(key) not in names:
            filler.wrong(f"{path}.{key}", f"is no known field; known here: {', '.join(names)}", item)
        elif not _yaml.is_null(item):
            filler.set(message, names[str(key)], item, f"{path}.{key}")


def _missing_label(filler: Filler, message: Any, value: Any, path: str) -> None:
    if value not in ("error", "skip"):
        return filler.wrong(path, f"is {value!r}, expected one of error, skip", value)
    message.skip_missing_labels = value == "skip"


def _params(filler: Filler, message: Any, value: Any, path: str) -> None:
    if isinstance(value, Mapping):
        value = {key: float(FLAGS[str(item).lower()]) if str(item).lower() in FLAGS else item for key, item in value.items()}
    filler.set(message, message.DESCRIPTOR.fields_by_name["params"], value, path)


def _class_weights(filler: Filler, message: Any, value: Any, path: str) -> None:
    if value == "balanced":
        message.balanced_class_weights = True
    elif isinstance(value, Mapping) and set(value) == {"given"}:
        filler.set(message, message.DESCRIPTOR.fields_by_name["class_weights"], value["given"], f"{path}.given")
    elif value != "none":
        filler.wrong(path, "expected none, balanced or `given:` with a weight for each class", value)


def _descriptions(filler: Filler, message: Any, value: Any, path: str) -> None:
    name = "descriptions" if isinstance(value, Mapping) else "descriptions_file"
    filler.set(message, message.DESCRIPTOR.fields_by_name[name], value, path)


def _betas(filler: Filler, message: Any, value: Any, path: str) -> None:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return filler.wrong(path, "expected a list of two numbers", value)
    for index, name in enumerate(["beta1", "beta2"]):
        filler.set(message, message.DESCRIPTOR.fields_by_name[name], value[index], f"{path}[{index}]")


def _probabilities(filler: Filler, message: Any, value: Any, path: str) -> None:
    part = message.probabilities
    part.SetInParent()
    filler.set(part, part.DESCRIPTOR.fields_by_name["of"], value, path)


def _init(filler: Filler, message: Any, value: Any, path: str) -> None:
    if isinstance(value, Mapping) and set(value) == {"text"}:
        filler.set(message, message.DESCRIPTOR.fields_by_name["text"], value["text"], f"{path}.text")
    elif value != "random":
        filler.wrong(path, "expected random or `text:` with words to start at", value)


# By message and by the field of the job file.
RULES: dict[tuple[str, str], Rule] = {
    ("JobSpec", "balancer"): _balancer,
    ("Data", "train"): _files("train"),
    ("Data", "validation"): _files("validation"),
    ("Data", "test"): _files("test"),
    ("Data", "columns"): _columns,
    ("Data", "on_missing_label"): _missing_label,
    ("Adaptation", "target"): _target,
    ("Adaptation", "params"): _params,
    ("Loss", "class_weights"): _class_weights,
    ("ZeroShot", "descriptions"): _descriptions,
    ("Optimizer", "betas"): _betas,
    ("Sampler", "probabilities"): _probabilities,
    ("Prompt", "init"): _init,
}
