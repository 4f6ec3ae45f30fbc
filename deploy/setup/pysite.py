"""Python packages for parity checks and benchmarks, in .espalier/pysite; PYTHONPATH finds them there.

A folder rather than a virtual environment, because Debian's python3 comes without ensurepip and
often without pip. PyTorch on the index is the CUDA build; on a machine without a GPU its CUDA half
is replaced by an empty stand-in, which saves 3 GB. All CPU code is PyTorch's own, untouched.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import fetch
import libtorch
from fetch import HOME, REPO, SetupError, need_disk, say

TARGET = HOME / "pysite"
REQUIREMENTS = REPO / "tests/requirements.txt"
GOLDEN = REPO / "tests/golden/requirements.txt"
STORES = REPO / "tests/python/requirements.txt"
OBSERVE = REPO / "tests/observability/requirements.txt"
RECIPES = REPO / "recipes/requirements.txt"
KUBERNETES = REPO / "tests/kubernetes/requirements.txt"
CLIENT = REPO / "proto/python/requirements.txt"
CLIENT_BUILD = REPO / "proto/python/build-requirements.txt"
STAMP = "espalier-setup.txt"
# What the CUDA half defines as data; everything else that is missing is a function and returns 0 ...
CUDA_DATA = ["_ZN3c104cuda20CUDACachingAllocator9allocatorE"]
# ... but these return the address of something, which PyTorch fills in while it is imported.
CUDA_REFERENCES = ["_ZN4c10d15get_gil_checkerEv"]
STAND_INS = ["libtorch_cuda.so", "libc10_cuda.so", "libcudnn.so.9", "libcufile.so.0"]
# CUDA's half, and what is only for building C++ against PyTorch.
LEFT_OUT = r"torch/lib/lib(torch_cuda|torch_cuda_linalg|c10_cuda|caffe2_nvrtc|torch_nvshmem|torch)\.so|torch/include/.*|torch/bin/(?!torch_shm_manager).*"


def setup():
    if sys.version_info < (3, 11) or sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise SetupError(f"PyTorch {libtorch.VERSION} needs a standard Python 3.11 to 3.14, this is {sys.version.split()[0]}: "
                         "name another one, as in 'make parity PYTHON=python3.12'")
    stamp = f"{sys.version_info[:2]} torch {libtorch.VERSION}\n{REQUIREMENTS.read_text()}"
    if (TARGET / STAMP).is_file() and (TARGET / STAMP).read_text() == stamp:
        say(f"Python packages: {TARGET}")
        return
    need_disk(HOME, 1_500_000_000, "the Python packages")
    aside = HOME / "pysite.new"
    shutil.rmtree(aside, ignore_errors=True)
    say(f"installing {REQUIREMENTS.relative_to(REPO)}")
    _pip_install(aside, ["-r", str(REQUIREMENTS)])
    _torch(aside)
    _try(aside)
    (aside / STAMP).write_text(stamp)
    shutil.rmtree(TARGET, ignore_errors=True)
    aside.rename(TARGET)
    say(f"Python packages: installed into {TARGET}")


def setup_grpc():
    """Only what the stock gRPC client needs, in .espalier/pygrpc: the versions of the requirements."""
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if re.match(r"(grpcio|grpcio-reflection|protobuf|typing-extensions)==", line)]
    _few("gRPC for Python", HOME / "pygrpc", lines)


def setup_recipes():
    """What recipes need that make their data themselves, in .espalier/pyrecipes."""
    need_disk(HOME, 300_000_000, "the Python packages of recipes")
    _few("Python packages of recipes", HOME / "pyrecipes", _lines(RECIPES))


def _lines(file):
    """The packages of a requirements file."""
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


def _few(what, target, lines):
    """Packages by their lines of a requirements file, without PyTorch, in a folder of their own."""
    aside = target.with_suffix(".new")
    stamp = f"{sys.version_info[:2]}\n" + "\n".join(lines)
    if (target / STAMP).is_file() and (target / STAMP).read_text() == stamp:
        say(f"{what}: {target}")
        return
    shutil.rmtree(aside, ignore_errors=True)
    say("installing " + ", ".join(lines))
    _pip_install(aside, lines)
    (aside / STAMP).write_text(stamp)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    say(f"{what}: installed into {target}")


def setup_s3():
    """The S3 server of tests/python/stores.py, in .espalier/pys3."""
    _few("S3 server for tests", HOME / "pys3", _lines(STORES))


def setup_kubernetes():
    """What tests/kubernetes/check.py renders and validates with, in .espalier/pykube."""
    target = HOME / "pykube"
    _few("schemas of Kubernetes", target, _lines(KUBERNETES))
    library = target / "libpykustomize.so"
    if not library.is_file():
        # kustomize itself, a library of Go; the Python around it asks for a newer Python than it needs.
        libtorch.extract(fetch.wheel("pykustomize"), r"pykustomize/_lib/linux-amd64/libpykustomize\.so", lambda name: library)
    say(f"kustomize: {library}")


def setup_observe():
    """TensorBoard, which reads event files in tests/observability/check.py, in .espalier/pyobserve."""
    _few("TensorBoard", HOME / "pyobserve", _lines(OBSERVE))


def setup_protoc():
    """What compiles protos in Python, in .espalier/pybuild."""
    _few("protoc in Python", HOME / "pybuild", _lines(CLIENT_BUILD))


def setup_client():
    """What the Python client needs to be built and tested, in .espalier/pybuild and .espalier/pyclient."""
    setup_protoc()
    need_disk(HOME, 300_000_000, "the Python packages of the client's test")
    _few("Python packages of the client", HOME / "pyclient", _lines(CLIENT))


def setup_golden():
    """What tests/golden/balance.py compares with, in .espalier/pygolden, PyTorch among it."""
    target, aside = HOME / "pygolden", HOME / "pygolden.new"
    stamp = f"{sys.version_info[:2]} torch {libtorch.VERSION}\n{GOLDEN.read_text()}"
    if (target / STAMP).is_file() and (target / STAMP).read_text() == stamp:
        say(f"libraries for golden numbers: {target}")
        return
    need_disk(HOME, 1_500_000_000, "the libraries for golden numbers")
    shutil.rmtree(aside, ignore_errors=True)
    say(f"installing {GOLDEN.relative_to(REPO)}")
    _pip_install(aside, ["-r", str(GOLDEN)])
    _torch(aside)
    (aside / STAMP).write_text(stamp)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    say(f"libraries for golden numbers: installed into {target}")


def pip():
    """The command that is pip: the machine's own, else a wheel of it."""
    command = [sys.executable, "-m", "pip"]
    if subprocess.run(command + ["--version"], capture_output=True).returncode != 0:
        # A wheel is a zip file that Python can run from.
        command = [sys.executable, str(fetch.wheel("pip") / "pip")]
    return command


def _pip_install(aside, packages):
    command = pip()
    command += ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    command += ["--cache-dir", str(HOME / "downloads/pip"), "--target", str(aside), *packages]
    # Otherwise Debian's pip refuses --target inside of a managed environment.
    env = {**os.environ, "PIP_BREAK_SYSTEM_PACKAGES": "1", "PIP_USER": "0", "PIP_ROOT_USER_ACTION": "ignore"}
    if subprocess.run(command, env=env).returncode != 0:
        raise SetupError("pip could not install the packages, see its message above; run this again when that is settled")


def _torch(aside):
    name = fetch.pinned("torch")
    if f"-cp{sys.version_info.major}{sys.version_info.minor}-" not in name:
        raise SetupError(f"no wheel of torch {libtorch.VERSION} for Python {sys.version.split()[0]}: 3.11 to 3.14 have one")
    say("unpacking PyTorch")
    wheel = fetch.wheel("torch")
    libtorch.extract(wheel, rf"(?!({LEFT_OUT})$).+", lambda member: aside / member)
    lib = aside / "torch/lib"
    for project in libtorch.NEEDED_BY_TORCH_CPU:
        libtorch.extract(fetch.wheel(project), r".*/lib(cudart|cupti)\.so\.13", lambda member: lib / Path(member).name)
    cuda = libtorch.TARGET / "cuda"
    if cuda.is_dir():
        for library in sorted(cuda.glob("lib*.so*")):
            if not (lib / library.name).exists():
                (lib / library.name).symlink_to(library)
        libtorch.extract(wheel, r"torch/lib/libtorch\.so", lambda member: aside / member)
    else:
        _stand_in(lib)


def _names(library, *options):
    done = subprocess.run(["nm", "-D", *options, str(library)], capture_output=True, text=True, check=True)
    return {line.split()[-1] for line in done.stdout.splitlines() if line.split()[-2] not in "wv"}


def _libstdcxx():
    return subprocess.run(["cc", "-print-file-name=libstdc++.so.6"], capture_output=True, text=True, check=True).stdout.strip()


def _stand_in(lib):
    """One library that defines, as nothing, what libtorch_python.so wants from the CUDA libraries."""
    if not shutil.which("nm") or not shutil.which("cc"):
        raise SetupError("no nm or cc on PATH: install binutils and a C compiler, for example 'apt-get install g++'")
    there = set()
    for name in ["libtorch_cpu.so", "libc10.so", "libshm.so", _libstdcxx()]:
        there |= {symbol.split("@")[0] for symbol in _names(lib / name, "--defined-only")}
    from_system = re.compile(r"@(GLIBC|GCC)_|@libcudart|^_?Py")
    wanted = _names(lib / "libtorch_python.so", "--undefined-only")
    missing = sorted({symbol.split("@")[0] for symbol in wanted if not from_system.search(symbol)} - there)
    source = "\n".join(_assembly(symbol) for symbol in missing) + '\n.section .note.GNU-stack,"",@progbits\n'
    (lib / "stand-in.s").write_text(source)
    for name in STAND_INS + ["libtorch.so"]:
        # Every name gets a file of its own, but only the first one holds the symbols.
        content = [str(lib / "stand-in.s")] if name == STAND_INS[0] else ["-x", "c", "/dev/null"]
        command = ["cc", "-shared", f"-Wl,-soname,{name}", "-o", str(lib / name), *content, "-lstdc++"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SetupError(f"cc could not link {name}: {done.stderr.strip()[-500:]}")


def _assembly(symbol):
    head = f".globl {symbol}\n.type {symbol}, "
    if symbol.startswith("_ZTI"):
        # A class without bases: pybind11 looks into the type information of what it registers.
        return (f'.data\n.balign 8\n{head}@object\n{symbol}:\n.quad _ZTVN10__cxxabiv117__class_type_infoE+16\n'
                f'.quad 1f\n.size {symbol}, 16\n.section .rodata\n1: .string "{symbol[4:]}"')
    if symbol.startswith("_ZTV") or symbol in CUDA_DATA:
        return f".data\n.balign 16\n{head}@object\n{symbol}:\n.zero 512\n.size {symbol}, 512"
    if symbol in CUDA_REFERENCES:
        return f".text\n{head}@function\n{symbol}:\nleaq 1f(%rip), %rax\nret\n.size {symbol}, 8\n.data\n.balign 16\n1: .zero 64"
    return f".text\n.balign 16\n{head}@function\n{symbol}:\nxorl %eax, %eax\nret\n.size {symbol}, 3"


def _try(folder):
    code = "import torch, transformers, grpc, pyarrow; print(torch.__version__, transformers.__version__, torch.cuda.is_available())"
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    if done.returncode != 0:
        raise SetupError(f"the packages in {folder} don't import (exit code {done.returncode}): {done.stderr.strip()[-800:]}")
    torch, transformers, cuda = done.stdout.split()
    say(f"torch {torch}, transformers {transformers}, CUDA {'usable' if cuda == 'True' else 'not usable'}")
