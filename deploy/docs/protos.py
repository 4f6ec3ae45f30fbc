"""The protos as descriptors, for the scripts of this folder; needs grpcio-tools (deploy/setup/setup.py protoc)."""

import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PACKAGE = "espalier.v1"
# In the order in which people read them.
FILES = [f"espalier/v1/{name}.proto" for name in ["job", "progress", "plan", "spec", "task", "cluster", "worker"]]

try:
    import grpc_tools
    from google.protobuf import descriptor_pb2
    from grpc_tools import protoc
except ImportError:
    sys.exit("no grpcio-tools: run 'make docs', or put .espalier/pybuild on PYTHONPATH (deploy/setup/setup.py protoc)")

Field = descriptor_pb2.FieldDescriptorProto


def files():
    """The file descriptors of FILES, with comments."""
    with tempfile.NamedTemporaryFile(suffix=".bin") as out:
        google = Path(grpc_tools.__file__).parent / "_proto"
        arguments = ["protoc", f"-I{REPO / 'proto'}", f"-I{google}", "--include_source_info", f"--descriptor_set_out={out.name}", *FILES]
        if protoc.main(arguments) != 0:
            sys.exit("protoc could not compile the protos, see its message above")
        found = descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes())
    return sorted(found.file, key=lambda file: FILES.index(file.name))


def short(name):
    """`.espalier.v1.Job.State` as `Job.State`; names of others in full."""
    return name.removeprefix(".").removeprefix(f"{PACKAGE}.")


def messages(file):
    """(path in the file, name, descriptor) of every message but the entries of maps, nested ones after their parents."""
    found = []

    def walk(message, path, name):
        found.append((path, name, message))
        for index, inner in enumerate(message.nested_type):
            if not inner.options.map_entry:
                walk(inner, (*path, 3, index), f"{name}.{inner.name}")

    for index, message in enumerate(file.message_type):
        walk(message, (4, index), message.name)
    return found


def enums(file):
    """(path in the file, name, descriptor) of every enum."""
    found = [((5, index), enum.name, enum) for index, enum in enumerate(file.enum_type)]
    for path, name, message in messages(file):
        found += [((*path, 4, index), f"{name}.{enum.name}", enum) for index, enum in enumerate(message.enum_type)]
    return found


def type_of(message, field):
    """A field's type as a proto file writes it."""
    if field.type_name:
        for inner in message.nested_type:
            if inner.options.map_entry and field.type_name.endswith(f".{message.name}.{inner.name}"):
                return f"map<{type_of(inner, inner.field[0])}, {type_of(inner, inner.field[1])}>"
        return short(field.type_name)
    return Field.Type.Name(field.type).removeprefix("TYPE_").lower()


def label_of(message, field):
    """singular, optional, repeated, map, or the oneof that it is in."""
    if type_of(message, field).startswith("map<"):
        return "map"
    if field.label == Field.LABEL_REPEATED:
        return "repeated"
    if field.proto3_optional:
        return "optional"
    return f"oneof:{message.oneof_decl[field.oneof_index].name}" if field.HasField("oneof_index") else "singular"


def comments(file):
    """Comments by path."""
    return {tuple(location.path): location.leading_comments.strip() for location in file.source_code_info.location if location.leading_comments}


def check_or_write(path, text, check):
    """Writes a file, or with `check` exits with an error where it is another one than it should be."""
    if not check:
        path.write_text(text)
        return print(f"wrote {path.relative_to(REPO)}")
    if not path.is_file() or path.read_text() != text:
        sys.exit(f"{path.relative_to(REPO)} is out of date: run 'make docs' and commit what it wrote")
    print(f"{path.relative_to(REPO)} is up to date")
