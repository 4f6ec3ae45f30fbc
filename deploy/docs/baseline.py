#!/usr/bin/env python3
"""The shape of the API, one line for each thing that a client may depend on: proto/baseline.txt.

proto/tests/lint compares it with the protos and fails on every change that breaks clients; UPDATE_BASELINE=1
makes it write additions, as this script does. Neither of them takes a line away that is no longer true: whoever
breaks the API deletes it by hand.
"""

import argparse

import protos

PATH = protos.REPO / "proto/baseline.txt"
HEAD = "# What clients and workers of espalier.v1 may depend on; proto/tests/lint compares. UPDATE_BASELINE=1 adds what is new.\n"


def listing():
    lines = []
    for file in protos.files():
        for service in file.service:
            for method in service.method:
                asked, answered = (f"{'stream ' if streams else ''}{protos.short(name)}" for streams, name in
                                   [(method.client_streaming, method.input_type), (method.server_streaming, method.output_type)])
                lines.append(f"rpc {service.name}.{method.name} ({asked}) ({answered})")
        for _, name, message in protos.messages(file):
            lines.append(f"message {name}")
            for field in message.field:
                lines.append(f"field {name}.{field.name} {field.number} {protos.type_of(message, field)} {protos.label_of(message, field)}")
            lines += [f"reserved {name}.{number}" for gap in message.reserved_range for number in range(gap.start, gap.end)]
        for _, name, enum in protos.enums(file):
            lines += [f"enum {name}.{value.name} {value.number}" for value in enum.value]
            lines += [f"reserved {name}.{number}" for gap in enum.reserved_range for number in range(gap.start, gap.end + 1)]
    return sorted(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where it is out of date")
    args = parser.parse_args()
    known = [line for line in PATH.read_text().splitlines() if not line.startswith("#")] if PATH.is_file() else []
    lines = listing()
    broken = sorted(set(known) - set(lines))
    if broken:
        raise SystemExit("the protos no longer have what clients may depend on:\n  " + "\n  ".join(broken))
    protos.check_or_write(PATH, HEAD + "".join(f"{line}\n" for line in lines), args.check)


if __name__ == "__main__":
    main()
