#!/usr/bin/env python3
"""Runs a program out of an image on a machine without a container engine; needs root and buildah.

    deploy/images/run.py [--volume HOST:PATH[:ro]]... [--env NAME[=VALUE]]... [--hostname NAME] [--workdir DIR]
                         IMAGE [ARGUMENT...]

As an engine would: the image's entry point as the image's user, the root file system only read, of the host's
files nothing but the volumes, no privileges and no way to new ones, a host name of its own, a /tmp in memory.
The network and the numbers of processes are the host's, nothing limits memory or cores, and no system call is
filtered: this is for trying images, not for strangers' ones. What is started keeps the process id of this
command: a signal to it reaches the program.
"""

import argparse
import ctypes
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
DEVICES = ["null", "zero", "full", "random", "urandom", "tty"]
LIBC = ctypes.CDLL(None, use_errno=True)


class RunError(Exception):
    """What keeps the program from being started."""


def command(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise RunError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def root_of(image):
    """The image's settings, and where its files are mounted: once for each image, whoever else runs it."""
    found = json.loads(command("buildah", "inspect", "--type", "image", image))
    name = f"espalier-run-{found['FromImageID'][:12]}"
    with open("/run/espalier-run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = command("buildah", "containers", "--format", "{{.ContainerName}}").split()
        if name not in known:
            command("buildah", "from", "--pull-never", "--name", name, image)
        return found["OCIv1"]["config"], Path(command("buildah", "mount", name).strip())


def mount(*words):
    command("mount", *map(str, words))


def bind(source, target, *options):
    """Shows a file or folder of the host in the image's root, where it gets a place if it has none."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--bind", source, target)
    # A bind mount takes options only when it is mounted again.
    mount("-o", ",".join(["remount", "bind", "nosuid", *options]), target)


def memory(target, mode, owner=(0, 0)):
    target.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", f"mode={mode},uid={owner[0]},gid={owner[1]},nosuid,nodev", "tmpfs", target)


def furnish(root, volumes, declared, owner):
    """Mounts what the program sees; all of it is gone with the program."""
    mount("--bind", root, root)
    memory(root / "tmp", "1777")
    memory(root / "dev", "0755")
    memory(root / "dev/shm", "1777")
    for name in DEVICES:
        place = root / "dev" / name
        place.touch()
        mount("--bind", f"/dev/{name}", place)
    mount("-t", "proc", "-o", "nosuid,nodev,noexec", "proc", root / "proc")
    mount("-t", "sysfs", "-o", "ro,nosuid,nodev,noexec", "sysfs", root / "sys")
    for file in ["hosts", "resolv.conf"]:
        if Path("/etc", file).exists():
            bind(Path("/etc", file).resolve(), root / "etc" / file, "ro")
    for source, target, options in volumes:
        bind(source, root / target.lstrip("/"), "nodev", *options)
    for place in declared:
        # What the image writes to and nobody has given a folder for.
        if place not in [target for _, target, _ in volumes]:
            memory(root / place.lstrip("/"), "0755", owner)
    mount("-o", "remount,bind,ro,nodev", root)


def volume(text):
    source, _, rest = text.partition(":")
    target, _, options = rest.partition(":")
    path = Path(source).resolve()
    if not target.startswith("/") or options not in ("", "ro", "rw"):
        raise RunError(f"--volume {text}: HOST:PATH or HOST:PATH:ro is expected, PATH from the root on")
    if not path.exists():
        raise RunError(f"--volume {text}: {source} is not there: make it first, for the image's user to write to")
    return path, target.rstrip("/"), ["ro"] if options == "ro" else []


def give_up_privileges(uid, gid):
    for capability in range(64):
        LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise RunError("this kernel keeps no program from new privileges (PR_SET_NO_NEW_PRIVS)")


def environment(settings, asked, hostname):
    found = dict(item.split("=", 1) for item in settings.get("Env") or [])
    found.update(HOME="/nonexistent", HOSTNAME=hostname)
    for item in asked:
        name, given, value = item.partition("=")
        if given or name in os.environ:
            found[name] = value if given else os.environ[name]
    return found


def run(args):
    if os.geteuid() != 0:
        raise RunError("this needs root: it mounts, and changes to the image's user")
    if not shutil.which("buildah"):
        raise RunError("no buildah here: apt-get install buildah")
    settings, root = root_of(args.image)
    words = (settings.get("Entrypoint") or []) + (args.arguments or settings.get("Cmd") or [])
    user = settings.get("User") or "0"
    uid, _, gid = user.partition(":")
    if not words or not uid.isdigit() or int(uid) == 0 or not (gid or uid).isdigit():
        raise RunError(f"{args.image} has the user {user!r} and the command {words}: a user by number that is not "
                       "root, and a command, are expected")
    uid, gid = int(uid), int(gid or uid)
    volumes = [volume(text) for text in args.volume]
    hostname = args.hostname or args.image.rpartition("/")[2].partition(":")[0]
    env = environment(settings, args.env, hostname)
    if LIBC.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC) != 0:
        raise RunError(f"no namespaces of its own: {os.strerror(ctypes.get_errno())}")
    mount("--make-rprivate", "/")
    command("hostname", hostname)
    furnish(root, volumes, settings.get("Volumes") or {}, (uid, gid))
    os.chroot(root)
    os.chdir(args.workdir or settings.get("WorkingDir") or "/")
    give_up_privileges(uid, gid)
    os.execve(words[0], words, env)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volume", action="append", default=[], metavar="HOST:PATH[:ro]")
    parser.add_argument("--env", action="append", default=[], metavar="NAME[=VALUE]")
    parser.add_argument("--hostname")
    parser.add_argument("--workdir")
    parser.add_argument("image")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    try:
        run(parser.parse_args())
    except (RunError, OSError) as error:
        sys.exit(f"run.py: {error}")


if __name__ == "__main__":
    main()
