"""Debian's package index and packages through apt, with a state folder of our own: no root needed."""

import os
import shutil
import subprocess
from pathlib import Path

from fetch import HOME, SetupError, say

STATE = HOME / "apt"


def _apt(*words, cwd=STATE):
    """An apt-get command that leaves the machine's own state alone and asks for descriptions too."""
    options = {
        "Dir::State": STATE,
        "Dir::State::Lists": STATE / "lists",
        "Dir::Cache": STATE / "cache",
        # Root's apt drops to a user who may not read this folder.
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "en",
        "Acquire::Retries": "3",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
    }
    command = ["apt-get"]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    return subprocess.run(command + list(words), capture_output=True, text=True, env=env, cwd=cwd)


def _state():
    if not shutil.which("apt-get"):
        raise SetupError("no apt-get here: the package index comes from Debian's apt, run this on Debian 12 or newer")
    for folder in ["lists/partial", "cache/archives/partial"]:
        (STATE / folder).mkdir(parents=True, exist_ok=True)


def index_targets():
    """[(kind, file)] of the index of Debian's release, kind Packages or Translations; fetched once."""
    _state()
    found = _targets()
    if not any(kind == "Packages" for kind, _ in found):
        say("fetching Debian's package index with descriptions (about 20 MB)")
        done = _apt("update")
        found = _targets()
        if not any(kind == "Packages" for kind, _ in found):
            tail = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
            raise SetupError(
                f"apt-get update brought no index of a Debian release: {tail[0]}. Is there a network, "
                "and a Debian source in /etc/apt/sources.list or /etc/apt/sources.list.d?"
            )
    return found


def _targets():
    text = _apt("indextargets", "--format", "$(CREATED_BY)|$(ORIGIN)|$(SUITE)|$(COMPONENT)|$(FILENAME)").stdout
    found = []
    for line in text.splitlines():
        kind, origin, suite, component, file = line.split("|")
        # Updates and security hold the same packages again; other origins carry no facets.
        if origin == "Debian" and component == "main" and "-" not in suite and Path(file).exists():
            if kind in ("Packages", "Translations"):
                found.append((kind, file))
    return sorted(found)


def read_index(file):
    """Text of an index file, whatever it is compressed with."""
    done = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", file], capture_output=True)
    if done.returncode != 0:
        raise SetupError(f"{file} can't be read: {done.stderr.decode(errors='replace').strip()}; delete {STATE} and try again")
    return done.stdout.decode("utf-8", errors="replace")


def stanzas(text):
    """Yields each paragraph of an index as {field: value}; continuation lines keep their line breaks."""
    for paragraph in text.split("\n\n"):
        fields, name = {}, None
        for line in paragraph.split("\n"):
            if line[:1] in (" ", "\t") and name:
                fields[name] += "\n" + line
            elif ":" in line:
                name, value = line.split(":", 1)
                fields[name] = value.strip()
        if fields:
            yield fields


def unpacked(package, program, folder):
    """Path of `program`: the machine's own if it's on PATH, else from a package unpacked into `folder`."""
    own = shutil.which(Path(program).name)
    if own:
        say(f"{Path(program).name}: {own}")
        return own
    if not (folder / program).is_file():
        if not shutil.which("dpkg-deb"):
            raise SetupError(f"no {Path(program).name} on PATH, and no dpkg-deb to unpack Debian's {package} with: install it yourself")
        index_targets()
        aside = folder.with_suffix(".new")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for old in STATE.glob(f"{package}_*.deb"):
            old.unlink()
        done = _apt("download", package)
        files = list(STATE.glob(f"{package}_*.deb"))
        if done.returncode != 0 or not files:
            raise SetupError(f"apt-get download {package} failed: {done.stderr.strip()}")
        subprocess.run(["dpkg-deb", "-x", files[0], aside], check=True)
        if not (aside / program).is_file():
            raise SetupError(f"{files[0].name} holds no {program}")
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        say(f"{files[0].name}: unpacked into {folder}")
    else:
        say(f"{Path(program).name}: {folder / program}")
    return str(folder / program)


def with_dependencies(packages, program, folder):
    """Path of `program` out of `packages` and all that they depend on and this machine lacks, unpacked into `folder`.

    Nothing is installed and no script of a package runs, so it suits programs that find their files beside themselves.
    """
    if (folder / program).is_file():
        say(f"{Path(program).name}: {folder / program}")
        return str(folder / program)
    if not shutil.which("dpkg-deb"):
        raise SetupError(f"no dpkg-deb to unpack Debian's {', '.join(packages)} with: install them yourself")
    index_targets()
    status = ["-o", "Dir::State::status=/var/lib/dpkg/status"]
    planned = _apt(*status, "--simulate", "--no-install-recommends", "install", *packages)
    names = [line.split()[1] for line in planned.stdout.splitlines() if line.startswith("Inst ")]
    if planned.returncode != 0 or not names:
        raise SetupError(f"apt-get can't tell what {', '.join(packages)} need: {planned.stderr.strip() or 'no answer'}")
    say(f"fetching {len(names)} of Debian's packages for {', '.join(packages)}")
    debs = STATE / f"{folder.name}-debs"
    shutil.rmtree(debs, ignore_errors=True)
    debs.mkdir()
    done = _apt("download", *names, cwd=debs)
    files = sorted(debs.glob("*.deb"))
    if done.returncode != 0 or len(files) != len(names):
        raise SetupError(f"apt-get download brought {len(files)} of {len(names)} packages: {done.stderr.strip()}")
    aside = folder.with_suffix(".new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for file in files:
        subprocess.run(["dpkg-deb", "-x", file, aside], check=True)
    if not (aside / program).is_file():
        raise SetupError(f"{', '.join(packages)} hold no {program}")
    shutil.rmtree(debs)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    say(f"{', '.join(packages)}: unpacked into {folder}")
    return str(folder / program)
