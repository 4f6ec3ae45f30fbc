"""Compiles the protos while the package is built, so that no generated code is kept in the repository."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
# What a client calls; worker.proto is between workers and the coordinator.
PROTOS = [f"espalier/v1/{name}.proto" for name in ["job", "progress", "plan", "spec", "task", "cluster"]]
ENDINGS = ["_pb2.py", "_pb2.pyi"]


def protos():
    """The folder that the protos' imports start from: the repository's, or the source package's own copy."""
    for folder in [HERE.parent, HERE / "protos"]:
        if all((folder / name).is_file() for name in PROTOS):
            return folder
    raise SystemExit(f"setup.py: no {PROTOS[0]} in {HERE.parent} or {HERE / 'protos'}: build from a clone of the repository")


class BuildWithProtos(build_py):
    """Python files, and those that protoc makes."""

    def _target(self):
        # An editable install imports from here; .gitignore leaves out what is written.
        return HERE if self.editable_mode else Path(self.build_lib)

    def run(self):
        super().run()
        # Imported here: other commands, such as `sdist`, don't need it.
        import grpc_tools
        from grpc_tools import protoc

        target = self._target()
        target.mkdir(parents=True, exist_ok=True)
        # Google's own protos, such as timestamp.proto, come with grpcio-tools.
        google = Path(grpc_tools.__file__).parent / "_proto"
        arguments = ["protoc", f"-I{protos()}", f"-I{google}", f"--python_out={target}", f"--pyi_out={target}", *PROTOS]
        if protoc.main(arguments) != 0:
            raise SystemExit("setup.py: protoc could not compile the protos, see its message above")

    def get_outputs(self, include_bytecode=1):
        made = [str(self._target() / name.replace(".proto", ending)) for name in PROTOS for ending in ENDINGS]
        return super().get_outputs(include_bytecode) + made


class SourceWithProtos(sdist):
    """The source package brings the protos along."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        for name in PROTOS:
            target = Path(base_dir) / "protos" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(protos() / name, target)


setup(cmdclass={"build_py": BuildWithProtos, "sdist": SourceWithProtos})
