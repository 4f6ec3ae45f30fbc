"""Chromium without a window, driven through chromedriver by W3C WebDriver: urllib and nothing else."""

import base64
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
UNPACKED = REPO / ".espalier/chromium"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Escape": "\ue00c", "Space": "\ue00d", "End": "\ue010", "Home": "\ue011",
        "Left": "\ue012", "Up": "\ue013", "Right": "\ue014", "Down": "\ue015", "Shift": "\ue008"}


class BrowserError(Exception):
    """The browser did not do what it was told; the message says what."""


def programs():
    """(chromium, chromedriver, environment): the machine's own, else what the set-up unpacked."""
    own, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if own and driver:
        return own, driver, dict(os.environ)
    chromium, driver = UNPACKED / "usr/lib/chromium/chromium", UNPACKED / "usr/bin/chromedriver"
    if not chromium.is_file() or not driver.is_file():
        raise BrowserError("no chromium and chromedriver on PATH, and none in .espalier: run "
                           "'python3 deploy/setup/setup.py chromium', or install both")
    # Every folder of libraries, those that packages find by an absolute path of theirs as well.
    libraries = sorted({str(file.parent) for file in (UNPACKED / "usr/lib").rglob("*.so*") if "chromium" not in file.parts[-2]})
    env = {**os.environ, "LD_LIBRARY_PATH": ":".join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(":")}
    if not Path("/etc/fonts/fonts.conf").exists():
        fonts = UNPACKED / "fonts.conf"
        fonts.write_text(f"<fontconfig><dir>{UNPACKED}/usr/share/fonts</dir><dir>/usr/share/fonts</dir>"
                         f"<cachedir>{UNPACKED}/font-cache</cachedir></fontconfig>\n")
        env["FONTCONFIG_FILE"] = str(fonts)
    return str(chromium), str(driver), env


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Browser:
    """One window. A `with` block ends browser and driver, and removes the profile."""

    def __init__(self, width=1280, height=860):
        self.chromium, self.program, self.env = programs()
        self.size = (width, height)

    def __enter__(self):
        self.profile = tempfile.mkdtemp(prefix="espalier-page-")
        port = free_port()
        self.base = f"http://127.0.0.1:{port}"
        self.driver = subprocess.Popen([self.program, f"--port={port}"], env=self.env, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            self.begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def begin(self):
        deadline = time.monotonic() + 20
        while True:
            try:
                if self.send("GET", "/status")["ready"]:
                    break
            except (OSError, BrowserError):
                pass
            if self.driver.poll() is not None or time.monotonic() > deadline:
                raise BrowserError(f"{self.program} did not start")
            time.sleep(0.05)
        arguments = ["--headless=new", f"--window-size={self.size[0]},{self.size[1]}", f"--user-data-dir={self.profile}",
                     "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb",
                     "--enable-precise-memory-info", "--js-flags=--expose-gc", "--disable-background-networking"]
        if os.geteuid() == 0:
            # Chromium's sandbox refuses root.
            arguments.append("--no-sandbox")
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"binary": self.chromium, "args": arguments},
                  "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self.send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}}, timeout=60)
        self.session = f"/session/{answer['sessionId']}"
        self.post("timeouts", {"script": 60000, "pageLoad": 30000})

    def __exit__(self, *_):
        if getattr(self, "session", None):
            try:
                self.send("DELETE", self.session)
            except (OSError, BrowserError):
                pass
        self.driver.terminate()
        try:
            self.driver.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.driver.kill()
            self.driver.wait()
        shutil.rmtree(self.profile, ignore_errors=True)

    def send(self, method, path, body=None, timeout=90):
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.base + path, data=data, method=method, headers={"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            value = json.loads(error.read() or b"{}").get("value", {})
            raise BrowserError(f"{path.rsplit('/', 1)[-1]}: {value.get('message', error)}".split("\n")[0]) from None

    def post(self, path, body=None):
        return self.send("POST", f"{self.session}/{path}", body)

    def cdp(self, command, **parameters):
        """A command of the DevTools protocol."""
        return self.post("goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, url):
        self.post("url", {"url": url})

    def run(self, script, *args):
        """What a script returns; `arguments` are the args. A promise is waited for."""
        return self.post("execute/sync", {"script": script, "args": list(args)})

    def value(self, expression):
        """What an expression is in the page."""
        return self.run(f"return ({expression});")

    def until(self, expression, seconds=30, what=None):
        """Waits until an expression is truthy, and returns it."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.value(expression)
            if found:
                return found
            if time.monotonic() > deadline:
                raise BrowserError(f"{what or expression}: not within {seconds} s; the page says:\n{self.words()[:1500]}")
            time.sleep(0.05)

    def words(self):
        """The text of the page."""
        return self.value("document.body.innerText")

    def find(self, css):
        return self.post("element", {"using": "css selector", "value": css})[ELEMENT]

    def click(self, css):
        self.post(f"element/{self.find(css)}/click")

    def type(self, css, text):
        self.post(f"element/{self.find(css)}/value", {"text": text})

    def keys(self, *names):
        """Presses keys, one after the other, wherever the focus is; `Shift+Tab` holds the first."""
        actions = []
        for name in names:
            chord = [KEYS.get(part, part) for part in (name.split("+") if len(name) > 1 else [name])]
            actions += [{"type": "keyDown", "value": key} for key in chord]
            actions += [{"type": "keyUp", "value": key} for key in reversed(chord)]
        self.post("actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def phone(self, width=390, height=844, scale=2):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=True)

    def desk(self, width=1280, height=860, scale=1):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)

    def scheme(self, name):
        """`dark` or `light`, as the system would say."""
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def complaints(self):
        """What the browser's console has at level SEVERE since the last time."""
        return [entry["message"] for entry in self.send("POST", f"{self.session}/se/log", {"type": "browser"}) if entry["level"] == "SEVERE"]

    def picture(self, path):
        Path(path).write_bytes(base64.b64decode(self.send("GET", f"{self.session}/screenshot")))
