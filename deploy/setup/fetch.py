"""Fetch pinned wheels: resumable, checked against wheels.txt, from the index that pip would use.

Where a wheel is looked for, in this order: the downloads folder; the local folders named in
ESPALIER_WHEELS and PIP_FIND_LINKS; the index (PIP_INDEX_URL, pip's configuration, or pypi.org); and
last pip itself, which knows about private indexes and their passwords.
"""

import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
HOME = REPO / ".espalier"
DOWNLOADS = HOME / "downloads"
CHUNK = 1 << 20


class SetupError(Exception):
    """Something that the person at the keyboard has to settle; the message says what."""


def say(text):
    print(f"setup: {text}", flush=True)


def megabytes(count):
    return f"{count / 1e6:.1f} MB"


def pins():
    """{file name: (sha256, bytes)} of wheels.txt."""
    table = {}
    for line in (HERE / "wheels.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            digest, size, name = line.split()
            table[name] = (digest, int(size))
    return table


def pinned(project):
    """The pinned wheel of a project that suits this Python, or any one where none does."""
    prefix = project.replace("-", "_") + "-"
    names = sorted(name for name in pins() if name.startswith(prefix))
    if not names:
        raise SetupError(f"{project} is not in deploy/setup/wheels.txt")
    ours = f"-cp{sys.version_info.major}{sys.version_info.minor}-"
    return next((name for name in names if ours in name), names[0])


def need_disk(folder, count, what):
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < count:
        raise SetupError(
            f"{what} needs {megabytes(count)} of free disk under {folder}, {megabytes(free)} are "
            "there: free some space and run this again (it goes on where it stopped)"
        )


def wheel(project):
    """Path of the pinned wheel of `project`, fetched if it isn't there yet."""
    name = pinned(project)
    digest, size = pins()[name]
    path = DOWNLOADS / name
    if path.exists() and path.stat().st_size == size:
        return path
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    found = _in_local_folders(name, size)
    if found:
        say(f"{name} ({megabytes(size)}): taken from {found.parent}")
        need_disk(DOWNLOADS, size, name)
        shutil.copyfile(found, path.with_suffix(".part"))
    else:
        _from_network(project, name, size, path.with_suffix(".part"))
    _accept(path.with_suffix(".part"), path, digest)
    return path


def _accept(part, path, digest):
    """Gives a finished download its name, if it is what was pinned."""
    found = hashlib.sha256()
    with open(part, "rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    if found.hexdigest() != digest:
        part.unlink()
        raise SetupError(
            f"{path.name}: sha256 is {found.hexdigest()}, expected {digest}; the bad download was "
            "deleted, run this again (if it stays so, the package mirror serves another file)"
        )
    part.replace(path)


def _in_local_folders(name, size):
    places = [os.environ.get("ESPALIER_WHEELS", "")]
    places += os.environ.get("PIP_FIND_LINKS", "").split()
    for place in filter(None, places):
        path = Path(place.replace("file://", "")) / name
        if path.is_file() and path.stat().st_size == size:
            return path
    return None


def _from_network(project, name, size, part):
    index = _pip_setting("index-url") or "https://pypi.org/simple"
    page = f"{index.rstrip('/')}/{project}/"
    try:
        _download(_file_url(page, name), name, size, part)
        return
    except (OSError, ValueError, LookupError) as error:
        reason = getattr(error, "reason", None) or error
    if not _with_pip(project, name, part):
        raise SetupError(
            f"{name} could not be had from {_no_password(page)}: {reason}. No network? A proxy is "
            "taken from https_proxy, a mirror from PIP_INDEX_URL, a certificate from PIP_CERT. Or put "
            f"the file into {part.parent} by hand. Then run this again, it goes on where it stopped"
        )


def _no_password(url):
    return re.sub(r"//[^/@]*@", "//", url)


def _pip_setting(name):
    """What pip is told by its environment or its configuration files."""
    value = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if value:
        return value
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{name}"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def _open(url, headers):
    context = ssl.create_default_context()
    cert = _pip_setting("cert")
    if cert:
        context.load_verify_locations(cert)
    handlers = [urllib.request.HTTPSHandler(context=context)]
    proxy = _pip_setting("proxy")
    if proxy:
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    request = urllib.request.Request(url, headers=headers)
    return urllib.request.build_opener(*handlers).open(request, timeout=60)


def _file_url(page, name):
    """The address of one file on a page of the index (PEP 691 JSON, or HTML where that is all)."""
    accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
    with _open(page, {"Accept": accept}) as answer:
        text, is_json = answer.read().decode(), "json" in answer.headers.get("Content-Type", "")
    if is_json:
        urls = [file["url"] for file in json.loads(text)["files"] if file["filename"] == name]
    else:
        links = re.findall(r'href="([^"]+)"', text)
        urls = [link for link in links if link.split("#")[0].endswith("/" + name)]
    if not urls:
        raise LookupError("the index does not list it")
    return urllib.parse.urljoin(page, urls[0].split("#")[0])


def _download(url, name, size, part):
    """Downloads to `part`, going on where an earlier try stopped; retries a few times."""
    for attempt in range(5):
        have = part.stat().st_size if part.exists() else 0
        if have > size:
            part.unlink()
            have = 0
        if have == size:
            return
        need_disk(part.parent, size - have, name)
        try:
            _download_once(url, name, size, part, have)
            if part.stat().st_size == size:
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            if attempt == 4:
                raise
            say(f"{name}: {error}; going on in {2 ** attempt} s")
            time.sleep(2 ** attempt)
    raise OSError(f"{part.stat().st_size} bytes came, expected {size}")


def _download_once(url, name, size, part, have):
    headers = {"Range": f"bytes={have}-"} if have else {}
    say(f"{name} ({megabytes(size)}): downloading" + (f", {megabytes(have)} are here" if have else ""))
    with _open(url, headers) as answer:
        mode = "ab" if have and answer.status == 206 else "wb"
        done, shown = (have if mode == "ab" else 0), time.monotonic()
        with open(part, mode) as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                if time.monotonic() - shown > 5:
                    shown = time.monotonic()
                    say(f"  {100 * done // size} % of {megabytes(size)}")


def _with_pip(project, name, part):
    """Last resort: pip, for indexes that ask for more than an address. True if it worked."""
    version = name.split("-")[1]
    tag = re.search(r"-cp3(\d+)-", name)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "1", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", f"3.{tag.group(1)}"] if tag else []
    command += ["--dest", str(part.parent), f"{project}=={version}"]
    say(f"{name}: asking pip for it")
    if subprocess.run(command).returncode != 0:
        return False
    (part.parent / name).replace(part)
    return True
