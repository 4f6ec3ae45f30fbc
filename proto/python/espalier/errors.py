"""What calls raise: one class per gRPC code, with reason, metadata and violated fields as the server sent them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.rpc import error_details_pb2, status_pb2

from . import _explain

DETAILS = "grpc-status-details-bin"
DOMAIN = "espalier"
# What gRPC itself says of a deadline.
LATE = "Deadline Exceeded"


class EspalierError(Exception):
    """Everything that this package raises by itself."""


class NotThereError(EspalierError):
    """What was asked for is not there (yet): no export, no affinity, no such file on this machine."""


@dataclass(frozen=True)
class Violation:
    """A bad field and what is wrong with it."""

    field: str
    message: str
    # Line of the job file, counted from 1; 0 if it came from elsewhere.
    line: int = 0

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class JobFileError(EspalierError):
    """A job file that is none: everything that is wrong with it, each with its field."""

    def __init__(self, violations: Sequence[Violation], shown: str = "job") -> None:
        self.violations = tuple(violations)
        places = [f"{shown}:{v.line}" if v.line else shown for v in self.violations]
        super().__init__("\n".join(f"{place}: {v}" for place, v in zip(places, self.violations)))


class JobEndedError(EspalierError):
    """A job that was waited for ended without a model; `job` is how it ended."""

    def __init__(self, message: str, job: Any) -> None:
        super().__init__(message)
        self.job = job


class JobFailedError(JobEndedError):
    """It failed; `job.failure` has a stable code and says whether to try again."""


class JobCancelledError(JobEndedError):
    """Somebody cancelled it."""


@dataclass(eq=False)
class ApiError(EspalierError):
    """What the server answered instead of a result."""

    # What happened, what was expected, what to do: for people.
    message: str
    # A stable word for programs, such as JOB_NOT_FOUND; empty if the connection itself failed.
    reason: str = ""
    # Names and numbers of the message for programs, such as `job` or `state`.
    metadata: Mapping[str, str] = field(default_factory=dict)
    # Every bad field of the request; only with InvalidArgumentError.
    violations: tuple[Violation, ...] = ()
    # Name of the gRPC code.
    code: str = "UNKNOWN"

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    @property
    def retryable(self) -> bool:
        """Whether the same call can succeed if tried again, with nothing changed."""
        return isinstance(self, (UnavailableError, AbortedError, DeadlineExceededError))


class InvalidArgumentError(ApiError):
    """The request is wrong, whatever the state of the cluster; see `violations`."""


class OutOfRangeError(ApiError):
    """A position lies beyond the end."""


class NotFoundError(ApiError):
    """No such thing, or none that the caller may see."""


class AlreadyExistsError(ApiError):
    """A thing of this name exists."""


class FailedPreconditionError(ApiError):
    """The thing is not in a state that allows this."""


class AbortedError(ApiError):
    """Overtaken by another change; try again."""


class ResourceExhaustedError(ApiError):
    """A limit is reached."""


class UnavailableError(ApiError):
    """Not possible now, or nobody answers there; try again later."""


class NotLeaderError(UnavailableError):
    """Another coordinator leads; `metadata["leader"]` is its address, if known. Clients go there by themselves."""


class DeadlineExceededError(ApiError):
    """Took too long."""


class CancelledError(ApiError):
    """The caller gave up."""


class UnauthenticatedError(ApiError):
    """The caller is not known: no token or certificate, or one that expired."""


class PermissionDeniedError(ApiError):
    """The caller may not do this."""


class UnimplementedError(ApiError):
    """The server does not know this call: it is of another version."""


class InternalError(ApiError):
    """A bug or broken state on the server."""


class UnknownError(ApiError):
    """Anything else."""


CODES: dict[str, type[ApiError]] = {
    "INVALID_ARGUMENT": InvalidArgumentError,
    "OUT_OF_RANGE": OutOfRangeError,
    "NOT_FOUND": NotFoundError,
    "ALREADY_EXISTS": AlreadyExistsError,
    "FAILED_PRECONDITION": FailedPreconditionError,
    "ABORTED": AbortedError,
    "RESOURCE_EXHAUSTED": ResourceExhaustedError,
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "CANCELLED": CancelledError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "UNIMPLEMENTED": UnimplementedError,
    "INTERNAL": InternalError,
}


def of_rpc(error: Any, address: str) -> ApiError:
    """The exception of a grpc.RpcError, sync or async, of a call to an address."""
    code = error.code().name
    message = error.details() or code
    reason, metadata, violations = "", {}, []
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS:
            for detail in status_pb2.Status.FromString(value).details:
                info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
                if detail.Unpack(info) and info.domain == DOMAIN:
                    reason, metadata = info.reason, dict(info.metadata)
                elif detail.Unpack(bad):
                    violations += [Violation(one.field, one.description) for one in bad.field_violations]
    kind = CODES.get(code, UnknownError)
    if kind is UnavailableError and not reason and (said := _explain.connection(address, message)):
        message, metadata = said, {"grpc": message}
    if kind is DeadlineExceededError and message == LATE:
        message = f"the coordinator at {address} had not finished its answer when the time given as `timeout` was over"
    if kind is UnavailableError and reason == "NOT_LEADER":
        kind = NotLeaderError
    return kind(message, reason, metadata, tuple(violations), code)
