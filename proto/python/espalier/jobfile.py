"""Job files into messages: `JobSpec` of the protos from the YAML that `espalier submit` reads.

Job file and message have one vocabulary: a field of the one is the field of the same name in the other, a word
such as `single_label` the enum value of the same name in capitals (without its prefix: `sync: all_reduce` is
SYNC_ALL_REDUCE), and a choice such as `tuning: {last_blocks: 2}` or `tuning: heads` the member of a oneof. Where
the shapes differ a rule says how:

| job file | message |
| --- | --- |
| `balancer: upgrad` | `balancer.method` |
| `data.train: FILE`, also `validation` and `test` | a list of one |
| `data.columns: {input, pair, label}` | `data.input_column`, `pair_column`, `label_column` |
| `data.on_missing_label: skip` | `data.skip_missing_labels` |
| `adaptation.target.train` | `adaptation.target_train` |
| `adaptation.params: {entropy: true}` | numbers, 1 and 0 for true and false |
| `loss.class_weights: balanced`, `{given: {...}}` | `loss.balanced_class_weights`, `class_weights` |
| `zero_shot.descriptions: FILE` | `zero_shot.descriptions_file` |
| `optimizer.betas: [a, b]` | `optimizer.beta1`, `beta2` |
| `sampler.probabilities: {...}` | `sampler.probabilities.of` |
| `prompt.init: random`, `{text: ...}` | `prompt.text` |

Fields that are left out stay out: the coordinator has the defaults and the rules between fields.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

from . import _mapping, _yaml, v1
from .errors import JobFileError, Violation

# A job file's path, its text (of several lines), its content as a dict, or a finished message.
Job = Union[str, "os.PathLike[str]", Mapping[str, Any], v1.JobSpec]

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def read(job: Job, overrides: Mapping[str, Any] | None = None, folder: str | os.PathLike[str] | None = None) -> v1.JobSpec:
    """The message of a job: `overrides` applied (`{"training.steps": 10}`), paths made absolute.

    Relative paths start from the job file's folder; those of a text or a dict from `folder`, by default the current
    directory. A message is taken as it is. Errors: JobFileError with every bad field and its line.
    """
    if isinstance(job, v1.JobSpec):
        if overrides:
            raise JobFileError([Violation("", "a finished JobSpec takes no overrides: set its fields")])
        return job
    shown, base, tree = "job", Path(folder or os.getcwd()), job
    if not isinstance(job, Mapping):
        text = os.fspath(job)
        if not isinstance(job, str) or "\n" not in text:
            file = Path(text)
            shown, base = str(file), Path(os.path.abspath(file)).parent
            try:
                text = file.read_text(encoding="utf-8")
            except OSError as error:
                raise JobFileError([Violation("", f"can't be read: {error.strerror}")], shown) from error
            except UnicodeDecodeError as error:
                raise JobFileError([Violation("", f"is not UTF-8 text (byte {error.start})")], shown) from error
        try:
            tree = _yaml.load(text)
        except JobFileError as error:
            raise JobFileError(error.violations, shown) from None
    if not isinstance(tree, Mapping):
        raise JobFileError([Violation("", "is no mapping, expected `name`, `backbone` and `tasks`")], shown)
    bad: list[Violation] = []
    for path, value in (overrides or {}).items():
        try:
            tree = override(tree, steps(path), value)
        except ValueError as error:
            bad.append(Violation(path, str(error)))
    spec = v1.JobSpec()
    _mapping.Filler(bad).fill(spec, tree, "")
    if bad:
        raise JobFileError(bad, shown)
    resolve(spec, base)
    return spec


def steps(path: str) -> list[str | int]:
    """`tasks[0].weight` as ["tasks", 0, "weight"]."""
    return [int(index) if index else name for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path)]


def override(node: Any, path: list[str | int], value: Any) -> Any:
    """A copy of `node` with the value at `path`; entries of lists by index or by their `name`."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(node, (list, tuple)):
        names = [item.get("name") if isinstance(item, Mapping) else None for item in node]
        if isinstance(head, str) and head not in names:
            raise ValueError(f"there is no entry named {head!r}; there are: {', '.join(str(name) for name in names)}")
        index = names.index(head) if isinstance(head, str) else head
        if index >= len(node):
            raise ValueError(f"there is no entry {index}: the list has {len(node)}")
        return [override(item, rest, value) if at == index else item for at, item in enumerate(node)]
    if isinstance(head, int):
        raise ValueError(f"[{head}] does not follow a list")
    known: Mapping[str, Any] = node if isinstance(node, Mapping) else {}
    child = known.get(head)
    # The short form of a balancer is its method.
    if head == "balancer" and rest and isinstance(child, str):
        child = {"method": child}
    return {**known, head: override(child, rest, value)}


def _paths(spec: v1.JobSpec) -> list[tuple[Any, str | int, str]]:
    """Where the job's paths are: message or list, field or index, and the field's name in a job file."""
    found: list[tuple[Any, str | int, str]] = [(spec.backbone, "path", "backbone.path")] if spec.HasField("backbone") else []
    for number, task in enumerate(spec.tasks):
        lists = [(task.data, "train", "data.train"), (task.data, "validation", "data.validation"), (task.data, "test", "data.test"),
                 (task.adaptation, "target_train", "adaptation.target.train")]
        for message, field, name in lists:
            files = getattr(message, field)
            found += [(files, index, f"tasks[{number}].{name}") for index in range(len(files))]
        if task.HasField("zero_shot"):
            found.append((task.zero_shot, "descriptions_file", f"tasks[{number}].zero_shot.descriptions"))
            found.append((task.zero_shot, "vectors", f"tasks[{number}].zero_shot.vectors"))
    return found


def _get(place: Any, key: str | int) -> str:
    return str(place[key] if isinstance(key, int) else getattr(place, key))


def resolve(spec: v1.JobSpec, folder: str | os.PathLike[str]) -> None:
    """Makes every path of the job absolute. URLs and empty paths stay as they are."""
    for place, key, _ in [*_paths(spec), (spec, "output", "output")]:
        value = absolute(_get(place, key), os.fspath(folder))
        if isinstance(key, int):
            place[key] = value
        elif value:
            setattr(place, key, value)


def absolute(path: str, folder: str) -> str:
    """A path from `folder` on; `..` stays, since a folder may be a link."""
    if not path.strip() or URL.match(path):
        return path
    home = os.environ.get("HOME")
    joined = os.path.join(home, path[2:]) if path.startswith("~/") and home else os.path.join(folder, path)
    joined = os.path.join(os.getcwd(), joined)
    parts = [part for part in joined.split("/") if part not in ("", ".")]
    return "/" + "/".join(parts) + ("/" if parts and joined.endswith("/") else "")


def missing_files(spec: v1.JobSpec) -> list[tuple[str, str]]:
    """Field and path of what the job reads and this machine does not have."""
    places = [(name, _get(place, key)) for place, key, name in _paths(spec)]
    return [(name, path) for name, path in places if path and not URL.match(path) and not os.path.exists(path)]
