#!/usr/bin/env python3
"""docs/job-file.md out of the JSON schema of job files: `espalier schema | job_file.py`, or a file of it."""

import argparse
import json
import re
import sys
from pathlib import Path

PATH = Path(__file__).resolve().parents[2] / "docs/job-file.md"
HEAD = """# The job file

Every field that a job file may have. `espalier submit`, `espalier validate` and `Client.submit` of the
[Python package](../proto/python/README.md) read it as YAML; a field that is not here is an error. For an editor that
completes and checks, write the schema to a file with `espalier schema > job.schema.json` and put
`# yaml-language-server: $schema=job.schema.json` on the job file's first line. How to choose among the values:
[data](data.md), [backbones](backbones.md), [tuning](tuning.md), [adaptation](adaptation.md), [checkpoints](checkpoints.md),
[recovery](recovery.md), [number of workers](elastic.md), [balancers](../worker/balance/README.md).

<!-- Written by deploy/docs/job_file.py out of `espalier schema`: do not edit, run `make docs`. -->
"""
WORDS = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text", "object": "mapping"}


class Reference:
    def __init__(self, schema):
        self.defs = schema.get("$defs", {})
        self.parts = []
        self.section("", schema)

    def resolve(self, schema):
        """What a schema stands for: its reference looked up, null left out."""
        while True:
            if "$ref" in schema:
                schema = self.defs[schema["$ref"].rsplit("/", 1)[1]]
            elif len(some := [part for part in schema.get("anyOf", []) if part.get("type") != "null"]) == 1:
                schema = some[0]
            else:
                return schema

    def section(self, path, schema):
        """A table of a mapping's fields, and after it what they hold."""
        title = f"`{path}`" if path else "The whole file"
        rows, later = [], []
        for name, field in schema["properties"].items():
            inner = f"{path}.{name}" if path else name
            required = name in schema.get("required", [])
            rows.append(f"| `{name}` | {self.kind(inner, field)} | {'required' if required else self.default(field)} "
                        f"| {line(field.get('description', ''))} |")
            later.append((inner, field))
        about = paragraphs(schema["description"]) + "\n\n" if "description" in schema else ""
        self.parts.append(f"## {title}\n\n{about}| field | value | default | meaning |\n| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n")
        for inner, field in later:
            self.choices(inner, field)
        for inner, field in later:
            self.mappings(inner, field)

    def mappings(self, path, schema):
        schema = self.resolve(schema)
        if schema.get("properties"):
            return self.section(path, schema)
        if "items" in schema:
            return self.mappings(f"{path}[]", schema["items"])
        for part in schema.get("anyOf", []):
            self.mappings(path, part)
        for part in schema.get("oneOf", []):
            for name, field in part.get("properties", {}).items():
                self.mappings(f"{path}.{name}", field)

    def choices(self, path, schema):
        """The values of a field that takes one of several."""
        schema = self.resolve(schema)
        # A short form that is also a field of the long form is listed there.
        if "anyOf" in schema and any(self.resolve(part).get("properties") for part in schema["anyOf"]):
            return
        lines = []
        for part in schema.get("oneOf", []):
            if "const" in part:
                lines.append(f"- `{part['const']}`: {line(part['description'])}")
            for name, field in part.get("properties", {}).items():
                lines.append(f"- `{name}: …`, {self.kind(f'{path}.{name}', field)}: {line(part['description'])}")
        if lines:
            self.parts.append(f"Values of `{path}`:\n\n" + "\n".join(lines) + "\n")

    def kind(self, path, schema):
        schema = self.resolve(schema)
        if "anyOf" in schema:
            return " or ".join(self.short_form(path, part, schema["anyOf"]) or self.kind(path, part) for part in schema["anyOf"])
        if "oneOf" in schema:
            return "one of the values below"
        word = next(name for name in as_list(schema["type"]) if name != "null")
        if word == "array":
            count = schema["minItems"] if "minItems" in schema else ""
            many = re.sub("^(text|mapping)", r"\1s", self.kind(f"{path}[]", schema["items"]))
            return f"list of {count} numbers" if count else f"list of {many}"
        if schema.get("properties"):
            return f"mapping, [below](#{anchor(path)})"
        if isinstance(schema.get("additionalProperties"), dict):
            return f"mapping of names to {self.kind(path, schema['additionalProperties'])}"
        return WORDS[word]

    def short_form(self, path, part, forms):
        """Of a value that may stand for a whole mapping: which field's it is."""
        for form in map(self.resolve, forms):
            for name, field in form.get("properties", {}).items():
                if "oneOf" in self.resolve(part) and self.resolve(field) is self.resolve(part):
                    return f"one of the values of `{path}.{name}`"
        return None

    def default(self, field):
        if "default" not in field:
            return ""
        value = field["default"]
        return "" if isinstance(value, dict) else f"`{json.dumps(value).strip(chr(34))}`"


def as_list(value):
    return value if isinstance(value, list) else [value]


def anchor(path):
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w -]", "", path.lower())


def tidy(text):
    # What speaks of the source is for those who read the source.
    return re.sub(r" ?\[`[^`]*`\][^.]*\.", "", text)


def line(text):
    return re.sub(r"\s+", " ", tidy(text)).replace("|", "\\|").strip()


def paragraphs(text):
    return "\n\n".join(line(part) for part in tidy(text).split("\n\n"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("schema", nargs="?", type=argparse.FileType(), default=sys.stdin)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where it is out of date")
    args = parser.parse_args()
    text = "\n".join([HEAD, *Reference(json.load(args.schema)).parts])
    if not args.check:
        PATH.write_text(text)
    elif not PATH.is_file() or PATH.read_text() != text:
        sys.exit("docs/job-file.md is out of date: run 'make docs' and commit what it wrote")
    print(f"docs/job-file.md: {'up to date' if args.check else 'written'}")


if __name__ == "__main__":
    main()
