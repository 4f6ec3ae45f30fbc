#!/usr/bin/env python3
"""docs/api.md out of the comments of the protos."""

import argparse
import re

import protos

PATH = protos.REPO / "docs/api.md"
HEAD = f"""# The API

The services of `{protos.PACKAGE}` as their protos describe them, one chapter a file. Defaults that the
[job file](job-file.md) has are those of the API, too. How to call them from any language:
[any-language.md](any-language.md); from Python: [the package](../proto/python/README.md).

A field that is *optional* knows whether it was set; one of a *oneof* excludes the others of it. What clients may depend
on, line by line: [proto/baseline.txt](../proto/baseline.txt).

<!-- Written by deploy/docs/api.py out of proto/espalier/v1: do not edit, run `make docs`. -->
"""


def anchor(name):
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w -]", "", name.lower())


def line(text):
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def linked(name, known):
    return re.sub(r"[A-Z][\w.]+", lambda found: f"[{found[0]}](#{anchor(found[0])})" if found[0] in known else found[0], name)


def chapter(file, known):
    """One proto file: its services, then messages and enums in their order."""
    said = protos.comments(file)
    parts = [f"## {file.name.rsplit('/', 1)[1]}\n"]
    for index, service in enumerate(file.service):
        parts.append(f"### {service.name}\n\n{paragraphs(said[6, index])}\n\n| call | takes | gives | |\n| --- | --- | --- | --- |\n" + "".join(
            row(method.name, streamed(method.client_streaming, method.input_type, known),
                streamed(method.server_streaming, method.output_type, known), line(said[6, index, 2, number]))
            for number, method in enumerate(service.method)))
    # An enum is found behind the message that it is part of.
    places = [(path, name, message, None) for path, name, message in protos.messages(file)]
    places += [(path, name, None, enum) for path, name, enum in protos.enums(file)]
    for path, name, message, enum in sorted(places, key=lambda place: place[0]):
        about = f"{paragraphs(said[path])}\n\n" if path in said else ""
        if enum:
            rows = "".join(row(f"`{value.name}`", value.number, line(said[(*path, 2, index)])) for index, value in enumerate(enum.value))
            table = f"| value | number | |\n| --- | --- | --- |\n{rows}"
        elif message.field:
            rows = "".join(row(f"`{field.name}`", field.number, kind(message, field, known), line(said[(*path, 2, index)]))
                           for index, field in enumerate(message.field))
            table = f"| field | number | type | |\n| --- | --- | --- | --- |\n{rows}"
        else:
            table = "No fields.\n"
        parts.append(f"### {name}\n\n{about}{table}")
    return "\n".join(parts)


def row(*cells):
    return "| " + " | ".join(map(str, cells)) + " |\n"


def streamed(streams, name, known):
    return f"{'stream of ' if streams else ''}{linked(protos.short(name), known)}"


def kind(message, field, known):
    label = protos.label_of(message, field)
    label = {"singular": "", "map": "", "optional": ", optional", "repeated": ", repeated"}.get(label, f", {label.replace(':', ' ')}")
    return linked(protos.type_of(message, field), known).replace("<", "\\<") + label


def paragraphs(text):
    return "\n\n".join(line(part) for part in text.split("\n\n"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where it is out of date")
    args = parser.parse_args()
    files = protos.files()
    known = {name for file in files for _, name, _ in [*protos.messages(file), *protos.enums(file)]}
    protos.check_or_write(PATH, "\n".join([HEAD, *(chapter(file, known) for file in files)]), args.check)


if __name__ == "__main__":
    main()
