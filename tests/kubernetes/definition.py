"""The definition of TrainingJob: its rules run by a CEL interpreter, its schema asked about resources."""

import copy
import functools
import importlib.machinery
import importlib.util
import re
from pathlib import Path

import jsonschema
import yaml

REPO = Path(__file__).resolve().parents[2]
KIND = "TrainingJob"
# In which a job can't become another one, and in which it can.
FIXED = ["Preparing", "Running", "Pausing", "Paused", "Cancelling"]
OPEN = ["Pending", "Suspended", "Rejected", "Queued", "Succeeded", "Failed", "Cancelled", "Lost"]


@functools.cache  # it can be loaded once
def interpreter():
    """CEL's `evaluate`. The package itself would load a command line with it, which nothing here needs."""
    origin = importlib.util.find_spec("cel").submodule_search_locations[0]
    path = next(Path(origin).glob("cel.*.so"))
    loader = importlib.machinery.ExtensionFileLoader("cel", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("cel", loader))
    loader.exec_module(module)
    return module.evaluate


def example():
    """The resource that the documentation shows."""
    text = (REPO / "docs/kubernetes-operator.md").read_text()
    return yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S).group(1))


def changed(resource, **fields):
    """A copy of a resource with other fields, each named by its place: `spec__job__seed`."""
    resource = copy.deepcopy(resource)
    for place, value in fields.items():
        *parents, last = place.split("__")
        target = resource
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = value
    return resource


def strict(schema):
    """A structural schema for jsonschema: what is not named is refused, as `kubectl apply` refuses it."""
    schema = dict(schema)
    if schema.pop("nullable", False):
        return {"anyOf": [strict(schema), {"type": "null"}]}
    free = schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in schema:
        schema["properties"] = {name: strict(inner) for name, inner in schema["properties"].items()}
        if not free:
            schema["additionalProperties"] = False
    elif "additionalProperties" in schema:
        schema["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        schema["items"] = strict(schema["items"])
    return schema


def violated(evaluate, rules, new, old=None):
    """Numbers of the rules that a resource breaks; those about a change hold where there was none before."""
    names = {"self": new} if old is None else {"self": new, "oldSelf": old}
    asked = [(index, rule["rule"]) for index, rule in enumerate(rules) if old is not None or "oldSelf" not in rule["rule"]]
    return [index for index, rule in asked if evaluate(rule, names) is not True]


def cases():
    """(what is tried, the resource, what it was before, numbers of the rules that must refuse it)"""
    good = example()
    longest = "x" * 63
    yield "the documentation's example", good, None, []
    yield "the longest name", changed(good, metadata__name=longest), None, []
    for name in [longest + "x", "1a", "a.b", "A", "a-"]:
        yield f"the name {name}", changed(good, metadata__name=name), None, [0]
    yield "its own name again", changed(good, spec__job__name=good["metadata"]["name"]), None, []
    yield "another name", changed(good, spec__job__name="other"), None, [1]
    yield "a change before there is a status", changed(good, spec__job__seed=7), good, []
    for state in FIXED + OPEN:
        old = changed(good, status__state=state)
        rest = changed(old, spec__suspend=True, spec__ttlSecondsAfterFinished=1)
        yield f"suspension while {state}", rest, old, []
        yield f"another job while {state}", changed(old, spec__job__seed=7), old, [2] if state in FIXED else []


def faults(definition):
    """What is wrong with the definition, a sentence each."""
    evaluate = interpreter()
    root = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    rules, found = root["x-kubernetes-validations"], []
    for what, new, old, wanted in cases():
        refused = violated(evaluate, rules, new, old)
        if refused != wanted:
            found.append(f"{KIND}: {what}: rules {refused} refuse it, expected {wanted}")
    check = jsonschema.Draft202012Validator(strict(root))
    found += [f"{KIND}: the documentation's example: {error.message}" for error in check.iter_errors(example())]
    slips = {"a slip": changed(example(), spec__job__trainng={}), "no tasks": changed(example(), spec__job__tasks=[]),
             "a word for a number": changed(example(), spec__job__seed="seven"), "less than now": changed(example(), spec__ttlSecondsAfterFinished=-1)}
    found += [f"{KIND}: {what} is not refused" for what, slip in slips.items() if check.is_valid(slip)]
    states = root["properties"]["status"]["properties"]["state"]["enum"]
    if sorted(states) != sorted(FIXED + OPEN):
        found.append(f"{KIND}: has the states {states}, of which this test knows others")
    return found


# One way to break the definition each; every one must be noticed.
BREAKS = {
    "a job that may change while it runs": lambda root: root["x-kubernetes-validations"].pop(2),
    "a job that may change while it is paused": lambda root: root["x-kubernetes-validations"][2].update(
        rule=root["x-kubernetes-validations"][2]["rule"].replace("'Paused', ", "")),
    "any name": lambda root: root["x-kubernetes-validations"][0].update(rule="true"),
    "no tasks": lambda root: root["properties"]["spec"]["properties"]["job"]["properties"]["tasks"].pop("minItems"),
}


def missed(definition):
    """Names of the breaks that nobody notices."""
    unnoticed = []
    for name, change in BREAKS.items():
        broken = copy.deepcopy(definition)
        change(broken["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        if not faults(broken):
            unnoticed.append(name)
    return unnoticed
