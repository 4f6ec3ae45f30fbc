"""The LIBTORCH folder that the torch-sys crate builds against, cut from PyTorch's Python wheel.

libtorch/lib holds the CPU libraries only, so one binary runs on machines with and without a GPU.
Where an NVIDIA GPU is found, libtorch/cuda gets the CUDA half of PyTorch and the libraries that it
needs; the worker loads them at run time when a job asks for a GPU.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import fetch
from fetch import HOME, SetupError, megabytes, need_disk, say

VERSION = "2.11.0"
TARGET = HOME / "libtorch"
NEEDED_BY_TORCH_CPU = ["nvidia-cuda-runtime", "nvidia-cuda-cupti"]
NEEDED_BY_TORCH_CUDA = [
    "nvidia-cuda-runtime", "nvidia-cublas", "nvidia-cuda-nvrtc", "nvidia-cudnn-cu13", "nvidia-cufft",
    "nvidia-cufile", "nvidia-curand", "nvidia-cusolver", "nvidia-cusparse", "nvidia-cusparselt-cu13",
    "nvidia-nccl-cu13", "nvidia-nvjitlink", "nvidia-nvshmem-cu13",
]
CPU_FILES = r"torch/(include/.+|lib/(libc10|libtorch_cpu)\.so|lib/libgomp\.so\.1)"
CUDA_FILES = r"torch/lib/(libtorch_cuda|libtorch_cuda_linalg|libc10_cuda|libcaffe2_nvrtc|libtorch_nvshmem)\.so"
# Downloads and what is unpacked from them.
CPU_DISK, CUDA_DISK = 1_100_000_000, 5_600_000_000


def folder():
    """The folder to build against: the one that LIBTORCH names, else ours."""
    return Path(os.environ.get("LIBTORCH") or TARGET).resolve()


def setup(want_cuda):
    """Makes our folder, or checks the one that LIBTORCH names."""
    if folder() != TARGET:
        _check_given(folder())
        return
    if platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
        raise SetupError("PyTorch's wheel is for x86-64 Linux with glibc: set LIBTORCH to a libtorch "
                         f"{VERSION} built for this machine")
    _make(TARGET, VERSION, CPU_DISK, "the CPU libraries", _build_cpu)
    if want_cuda:
        # Beside libtorch/lib, not in it: torch-sys links CUDA in as soon as it is found there.
        _make(TARGET / "cuda", f"{VERSION}+cu130", CUDA_DISK, "the CUDA libraries", _build_cuda)


def gpu_present():
    if Path("/dev/nvidia0").exists():
        return True
    smi = shutil.which("nvidia-smi")
    return bool(smi) and subprocess.run([smi, "-L"], capture_output=True).returncode == 0


def _check_given(path):
    header = path / "include/torch/headeronly/version.h"
    if not header.is_file() or not (path / "lib/libtorch_cpu.so").is_file():
        raise SetupError(
            f"LIBTORCH={path} has no {header.relative_to(path)} or no lib/libtorch_cpu.so: point it at "
            f"a libtorch {VERSION} folder, or unset it and one is set up here"
        )
    numbers = re.findall(r"#define TORCH_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header.read_text())
    found = ".".join(numbers)
    if found != VERSION:
        raise SetupError(
            f"LIBTORCH={path} is version {found}, expected {VERSION}: unset LIBTORCH and the right one "
            "is set up here"
        )
    say(f"libtorch {found}: LIBTORCH={path} is set by you and is used as it is")


def _make(target, version, disk, what, build):
    """Builds into a folder aside and renames it, so that a half-made one is never taken for whole."""
    stamp = target / "espalier-setup.json"
    if stamp.is_file() and json.loads(stamp.read_text()).get("version") == version:
        say(f"libtorch {version}: {what} are in {target}")
        return
    need_disk(HOME, disk, f"libtorch {version}")
    aside = HOME / (target.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    wheels = build(aside)
    (aside / stamp.name).write_text(json.dumps({"version": version, "wheels": wheels}, indent=1) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    say(f"libtorch {version}: {what} ({megabytes(size)}) are now in {target}")


def _build_cpu(aside):
    wheels = [fetch.wheel("torch")] + [fetch.wheel(name) for name in NEEDED_BY_TORCH_CPU]
    say("unpacking libtorch")
    extract(wheels[0], CPU_FILES, lambda name: aside / name.removeprefix("torch/"))
    for path in wheels[1:]:
        extract(path, r".*/lib(cudart|cupti)\.so\.13", lambda name: aside / "lib" / Path(name).name)
    (aside / "build-version").write_text(VERSION + "\n")
    _link_stub(aside / "lib/libtorch.so")
    return [path.name for path in wheels]


def _build_cuda(aside):
    wheels = [fetch.wheel("torch")] + [fetch.wheel(name) for name in NEEDED_BY_TORCH_CUDA]
    say("unpacking the CUDA libraries")
    extract(wheels[0], CUDA_FILES, lambda name: aside / Path(name).name)
    for path in wheels[1:]:
        extract(path, r".*/lib/lib[^/]+\.so[^/]*", lambda name: aside / Path(name).name)
    # cudarc looks for the name without a version.
    (aside / "libnccl.so").symlink_to("libnccl.so.2")
    return [path.name for path in wheels]


def _link_stub(path):
    """torch-sys asks the linker for -ltorch; in the wheel that library would pull in CUDA."""
    compiler = shutil.which("cc") or shutil.which("c++")
    if not compiler:
        raise SetupError("no C compiler (cc): install one, for example 'apt-get install g++', and run this again")
    command = [compiler, "-shared", "-nostdlib", "-Wl,-soname,libtorch.so", "-o", str(path), "-x", "c", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SetupError(f"{compiler} could not link an empty library: {done.stderr.strip()}")


def extract(archive, pattern, destination):
    """Writes each member whose whole name matches `pattern` to destination(name)."""
    count = 0
    with zipfile.ZipFile(archive) as wheel:
        for member in wheel.infolist():
            if member.is_dir() or not re.fullmatch(pattern, member.filename):
                continue
            path = destination(member.filename)
            path.parent.mkdir(parents=True, exist_ok=True)
            with wheel.open(member) as source, open(path, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            count += 1
    if count == 0:
        raise SetupError(f"{archive.name} holds nothing named like {pattern}: another layout than expected")
