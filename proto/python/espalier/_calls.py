"""What the sync and the async client share: where to call, with what, and how answers are read."""

from __future__ import annotations

import json
import os
import threading
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from . import jobfile, v1
from ._route import Route
from .errors import EspalierError, JobCancelledError, JobEndedError, JobFailedError, JobFileError, NotThereError, Violation
from .v1 import cluster_pb2, job_pb2

DEFAULT_SERVER = "http://127.0.0.1:7443"
# Where `espalier up` says which cluster runs.
LOCAL = Path(".espalier/cluster")
# Seconds that a call may take, that an election may take, and that a watch waits for a coordinator.
TIMEOUT, ELECTION, WATCH = 30.0, 10.0, 600.0
# Lines of a log that are remembered, so that a stream that is taken up again shows none twice.
KEPT = 20_000
PAGE = 500
# Plans of large worlds and job specs with many classes outgrow gRPC's default of 4 MiB.
OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Not a pause, whatever its name: how long a connection may take to come about.
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Notices a coordinator whose host vanished while a stream is open.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
]


def methods() -> dict[str, MethodDescriptor]:
    """The calls that there are, by name; names are unique over the services."""
    files = [job_pb2.DESCRIPTOR, cluster_pb2.DESCRIPTOR]
    services = [service for file in files for service in file.services_by_name.values()]
    return {method.name: method for service in services for method in service.methods}


METHODS = methods()


class Held:
    """A channel, what tells the certificates that it was opened with from later ones, and the calls under way on it."""

    def __init__(self, stamp: Any, channel: Any) -> None:
        self.stamp, self.channel, self.calls = stamp, channel, 0


class Calls:
    """Where to call and with what; the channels are the subclass's."""

    def __init__(self, server: str | None, token: str | None, token_file: str | os.PathLike[str] | None,
                 ca: str | os.PathLike[str] | None, cert: str | os.PathLike[str] | None, key: str | os.PathLike[str] | None,
                 server_name: str | None, timeout: float) -> None:
        environment = os.environ.get
        if token is None and not token_file:
            token, token_file = environment("ESPALIER_TOKEN"), environment("ESPALIER_TOKEN_FILE")
        self._token, self._token_file = token, token_file
        self._ca = ca or environment("ESPALIER_TLS_CA")
        self._cert = cert or environment("ESPALIER_TLS_CERT")
        self._key = key or environment("ESPALIER_TLS_KEY")
        self._server_name = server_name or environment("ESPALIER_TLS_SERVER_NAME")
        self._timeout = timeout
        # As commands do: who has certificates means an encrypted connection.
        scheme = "https" if self._ca or self._cert else "http"
        self._route = Route(server or environment("ESPALIER_SERVER") or local_server() or DEFAULT_SERVER, scheme)
        # Of the two below: several threads may call at once.
        self._lock = threading.Lock()
        # By address.
        self._channels: dict[str, Held] = {}
        # Those that gave way to others and on which calls may still run.
        self._replaced: list[Held] = []
        if bool(self._cert) != bool(self._key):
            raise EspalierError("a certificate and its key go together: give both `cert` and `key`, or neither")
        given = self._route.given
        if (ca or cert) and any(address.startswith("http://") for address in given):
            raise EspalierError(f"{', '.join(given)} is not encrypted, so that certificates are of no use: give the address as https://")
        if (self._token or token_file) and any(address.startswith("http://") and not is_loopback(address) for address in given):
            warnings.warn("the token is sent without encryption: give the coordinator's address as https://", stacklevel=4)

    @property
    def server(self) -> str:
        """Address of the coordinator that is called now."""
        return self._route.address

    def _borrow(self, insecure: Callable[..., Any], secure: Callable[..., Any]) -> Held:
        """For one call, a channel to the coordinator that is called now; a new one once certificates have been renewed."""
        with self._lock:
            address = self._route.address
            held = self._channels.get(address)
            stamp = self._stamp(address)
            if held is None or stamp not in (None, held.stamp):
                opened = Held(stamp, self._open(address, insecure, secure))
                if held is not None:
                    self._replaced.append(held)
                held = self._channels[address] = opened
            held.calls += 1
            return held

    def _give_back(self, held: Held) -> list[Any]:
        """A call is over. Answers channels to be closed now: others took their place, and no call runs on them."""
        with self._lock:
            held.calls -= 1
            idle = [old.channel for old in self._replaced if old.calls == 0]
            self._replaced = [old for old in self._replaced if old.calls > 0]
        return idle

    def _stamp(self, address: str) -> Any:
        """Changes with the files of certificates; None while one is not there, as when it is being replaced."""
        files = [path for path in (self._ca, self._cert, self._key) if path]
        try:
            stats = [os.stat(path) for path in files] if address.startswith("https://") else []
        except OSError:
            return None
        return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats]

    def _all_channels(self) -> list[Any]:
        """Every channel, to be closed; there are none from then on."""
        with self._lock:
            found = [held.channel for held in [*self._channels.values(), *self._replaced]]
            self._channels, self._replaced = {}, []
        return found

    def _open(self, address: str, insecure: Callable[..., Any], secure: Callable[..., Any]) -> Any:
        """A channel with the certificates as they are now."""
        options: list[tuple[str, Any]] = list(OPTIONS)
        if is_loopback(address):
            options.append(("grpc.enable_http_proxy", 0))
        target = urlsplit(address).netloc
        if address.startswith("http://"):
            return insecure(target, options=options)
        if self._server_name:
            options.append(("grpc.ssl_target_name_override", self._server_name))
        ca, key, cert = (read_file(path) if path else None for path in (self._ca, self._key, self._cert))
        credentials = grpc.ssl_channel_credentials(ca, key, cert)
        return secure(target, credentials, options=options)

    def _metadata(self) -> list[tuple[str, str]]:
        """What goes with every call; a token file is read each time, since tokens are renewed."""
        token = self._token
        if token is None and self._token_file:
            token = read_file(self._token_file).decode().strip()
        return [("authorization", f"Bearer {token}")] if token else []

    def _create_request(self, job: jobfile.Job, request_id: str | None, overrides: Mapping[str, Any] | None,
                        folder: str | os.PathLike[str] | None, validate_only: bool) -> v1.CreateJobRequest:
        spec = jobfile.read(job, overrides, folder)
        missing = [] if isinstance(job, v1.JobSpec) else jobfile.missing_files(spec)
        if missing and is_local(self.server) and not validate_only:
            raise JobFileError([Violation(name, f"{path} does not exist") for name, path in missing])
        for name, path in missing:
            warnings.warn(f"{name}: {path} does not exist on this machine; the workers must have it", stacklevel=4)
        return v1.CreateJobRequest(spec=spec, request_id=request_id or str(uuid.uuid4()), validate_only=validate_only)


def path_of(method: MethodDescriptor) -> str:
    """A call's path on the wire."""
    return f"/{method.containing_service.full_name}/{method.name}"


def callable_of(channel: Any, method: MethodDescriptor) -> Any:
    """The call on a channel, sync or async."""
    request = message_factory.GetMessageClass(method.input_type)
    answer = message_factory.GetMessageClass(method.output_type)
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    return kind(path_of(method), request_serializer=request.SerializeToString, response_deserializer=answer.FromString)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """A file's content, or an error that names it."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise EspalierError(f"can't read {os.fspath(path)}: {error.strerror}") from error


def is_loopback(address: str) -> bool:
    """Whether an address is of this machine."""
    host = urlsplit(address).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def is_local(address: str) -> bool:
    """Whether an address is that of the cluster that `espalier up` runs here, so that it sees the same files.

    One of this machine alone says nothing: a port-forward may lead from it anywhere.
    """
    def place(address: str) -> tuple[str, str, int | None]:
        parts = urlsplit(address)
        return parts.scheme, "localhost" if is_loopback(address) else parts.hostname or "", parts.port

    local = local_server()
    return local is not None and place(address) == place(local)


def local_server() -> str | None:
    """Address of the cluster that `espalier up` runs here, if it does."""
    try:
        # POSIX alone has it, and there alone `espalier up` runs; clusters elsewhere can be called from everywhere.
        import fcntl
    except ImportError:
        return None
    try:
        with open(LOCAL / "lock", "rb") as lock:
            # Who runs a cluster holds its lock; a file that is left over says nothing.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return str(json.loads((LOCAL / "up.json").read_text())["server"]) or None
        except (OSError, ValueError, KeyError):
            return None
    except OSError:
        return None
    return None


def states_of(states: Iterable[str | int]) -> list[Any]:
    """Numbers of states: names such as `RUNNING` and numbers alike."""
    names = v1.Job.State
    try:
        return [names.Value(state.upper()) if isinstance(state, str) else int(state) for state in states]
    except ValueError:
        raise EspalierError(f"no such state in {list(states)}: there are {', '.join(names.keys()[1:])}") from None


def state_name(job: v1.Job) -> str:
    """A job's state as a word."""
    return v1.Job.State.Name(job.state)


def ended(job: v1.Job) -> v1.Job:
    """A job that has ended, if it succeeded. Errors: it did not."""
    name = state_name(job)
    if name == "SUCCEEDED":
        return job
    if name == "FAILED":
        raise JobFailedError(f"job {job.name} failed ({job.failure.code}): {job.failure.message}", job)
    kind = JobCancelledError if name == "CANCELLED" else JobEndedError
    raise kind(f"job {job.name} is {name}: {job.state_reason}", job)


def export_of(job: v1.Job) -> str:
    """Where a job's model is."""
    if not job.export_path:
        over = state_name(job) in ("FAILED", "CANCELLED")
        hint = "it has ended without one" if over else "it is exported when the job has succeeded; wait for that"
        raise NotThereError(f"job {job.name} is {state_name(job)} and has no exported model: {hint}")
    return str(job.export_path)


class Shown:
    """The lines of a log that were shown, for when a stream that broke is taken up again: lines have no numbers."""

    def __init__(self) -> None:
        # Times are those of the workers' clocks, which need not agree.
        self._since: dict[str, tuple[int, int]] = {}
        self._newest: deque[int] = deque(maxlen=KEPT)
        self._again = False

    def restart(self, request: v1.TailJobLogsRequest) -> None:
        """From now on lines are those of another stream, which is asked for all that is kept."""
        self._again, request.tail = True, 0

    def is_new(self, line: v1.LogLine) -> bool:
        """Whether to show a line now; it counts as shown then."""
        time = (line.time.seconds, line.time.nanos)
        key = hash((time, line.worker, line.rank if line.HasField("rank") else None, line.text))
        if self._again and (time < self._since.get(line.worker, (0, 0)) or key in self._newest):
            return False
        self._since.setdefault(line.worker, time)
        self._newest.append(key)
        return True
