"""The client. Every call is one method; answers are the messages of `espalier.v1`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc

from . import _calls, _progress, export, frames, jobfile, v1
from ._calls import ELECTION, METHODS, PAGE, TIMEOUT, WATCH
from ._route import Attempts
from .errors import of_rpc

if TYPE_CHECKING:
    import pandas


class Client(_calls.Calls):
    """A cluster, seen from outside. Safe to use from several threads; use it in `with`, or `close` it.

    `server`: `http://HOST:PORT` or `https://HOST:PORT`, several coordinators with commas between; default:
    ESPALIER_SERVER, else the cluster that `espalier up` runs here, else http://127.0.0.1:7443. `token` or a
    `token_file`; `ca` (PEM of who signed the server's certificate; default: the public ones), `cert` and `key` of the
    caller. All of them have an environment variable: ESPALIER_TOKEN, ESPALIER_TOKEN_FILE,
    ESPALIER_TLS_CA, ESPALIER_TLS_CERT, ESPALIER_TLS_KEY, ESPALIER_TLS_SERVER_NAME. Files are read again once they change.

    Calls find the coordinator that leads, and are repeated where that is safe while it changes. Errors are those of
    `espalier.errors`.
    """

    def __init__(self, server: str | None = None, *, token: str | None = None, token_file: str | os.PathLike[str] | None = None,
                 ca: str | os.PathLike[str] | None = None, cert: str | os.PathLike[str] | None = None,
                 key: str | os.PathLike[str] | None = None, server_name: str | None = None, timeout: float = TIMEOUT) -> None:
        super().__init__(server, token, token_file, ca, cert, key, server_name, timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        for channel in self._all_channels():
            channel.close()

    # Jobs

    def submit(self, job: jobfile.Job, *, request_id: str | None = None, overrides: Mapping[str, Any] | None = None,
               folder: str | os.PathLike[str] | None = None) -> v1.Job:
        """Submits a job: a job file's path, its text, a dict of the same form, or a JobSpec; see `jobfile.read`.

        Answers when the job is durably stored. Calls with the same `request_id`, a UUID, create one job: give one of
        your own to be able to submit again after your program broke off.
        """
        request = self._create_request(job, request_id, overrides, folder, False)
        return self._call("CreateJob", request)

    def validate(self, job: jobfile.Job, *, overrides: Mapping[str, Any] | None = None,
                 folder: str | os.PathLike[str] | None = None) -> v1.JobSpec:
        """Lets the coordinator check a job; nothing is created. Answers the spec with all defaults filled in."""
        return self._call("CreateJob", self._create_request(job, None, overrides, folder, True)).spec

    def get(self, name: str) -> v1.Job:
        """One job."""
        return self._call("GetJob", v1.GetJobRequest(name=name))

    def list(self, *, states: Iterable[str | int] = (), namespace: str = "") -> Iterator[v1.Job]:
        """Jobs in order of creation, of some states (`RUNNING`, ...) and one namespace; by default all."""
        request = v1.ListJobsRequest(page_size=PAGE, states=_calls.states_of(states), namespace=namespace)
        while True:
            page = self._call("ListJobs", request)
            yield from page.jobs
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch(self, name: str, *, after_sequence: int = 0, timeout: float | None = None) -> Iterator[v1.WatchJobResponse]:
        """A job's events after a sequence number, and its progress as it changes, until it has ended.

        A watch that breaks goes on after the last event that was seen, at whichever coordinator leads then.
        """
        request = v1.WatchJobRequest(name=name, after_sequence=after_sequence)
        for update in self._stream("WatchJob", request, timeout, lambda: None):
            # The request of the next try, should there be one.
            if update.WhichOneof("update") == "event":
                request.after_sequence = update.event.sequence
            yield update

    def wait(self, name: str, *, progress: bool = True, timeout: float | None = None) -> v1.Job:
        """Waits until a job has succeeded, with a bar where tqdm is installed. Errors: JobFailedError, JobCancelledError."""
        with _progress.Display(name, progress) as display:
            for update in self.watch(name, timeout=timeout):
                display.show(update)
        return _calls.ended(self.get(name))

    def logs(self, name: str, *, tail: int = 0, follow: bool = False) -> Iterator[v1.LogLine]:
        """A job's log lines from all its ranks: the newest `tail` (0: all that are kept), and with `follow` new ones."""
        request = v1.TailJobLogsRequest(name=name, tail=tail, follow=follow)
        shown = _calls.Shown()
        for line in self._stream("TailJobLogs", request, None, (lambda: shown.restart(request)) if follow else None):
            if shown.is_new(line):
                yield line

    def cancel(self, name: str) -> v1.Job:
        """Ends a job for good."""
        return self._call("CancelJob", v1.CancelJobRequest(name=name), safe=False)

    def pause(self, name: str) -> v1.Job:
        """Writes a checkpoint at the next step and gives the ranks back."""
        return self._call("PauseJob", v1.PauseJobRequest(name=name), safe=False)

    def resume(self, name: str) -> v1.Job:
        """Puts a paused job back into the queue."""
        return self._call("ResumeJob", v1.ResumeJobRequest(name=name), safe=False)

    def delete(self, name: str) -> None:
        """Forgets an ended job; its files stay on the workers."""
        self._call("DeleteJob", v1.DeleteJobRequest(name=name), safe=False)

    # What came of it

    def affinity(self, name: str, figure: str = "cosine") -> pandas.DataFrame:
        """How the gradients of a job's tasks relate: a symmetric frame of tasks; `figure`: see `frames.FIGURES`."""
        return frames.affinity(self.get(name), figure)

    def scores(self, name: str, split: str = "test") -> pandas.DataFrame:
        """The newest evaluation on a split (`test`, `validation`): a row for each task and metric, with its `score` and
        the `baseline` of always answering the most frequent class, or the mean."""
        return frames.scores(self.get(name), split)

    def series(self, name: str, series: Iterable[str] = (), *, from_step: int = 0, to_step: int = 0,
               max_points: int = 0) -> Sequence[v1.Series]:
        """How figures of a job went: by name, all that begin with `loss/` and the like, or all."""
        request = v1.GetJobSeriesRequest(name=name, series=series, from_step=from_step, to_step=to_step, max_points=max_points)
        return [*self._call("GetJobSeries", request).series]

    def series_frame(self, name: str, series: Iterable[str] = (), **which: int) -> pandas.DataFrame:
        """The same as a frame: a row for each step, a column for each series."""
        return frames.series(self.series(name, series, **which))

    def export_path(self, name: str) -> str:
        """The directory of the exported model, as the workers see it."""
        return _calls.export_of(self.get(name))

    def download(self, name: str, to: str | os.PathLike[str]) -> Path:
        """Copies the exported model into a new or empty directory; this machine must see the export's directory."""
        job = self.get(name)
        return export.copy(job, _calls.export_of(job), Path(to))

    # The cluster

    def cluster(self) -> v1.Cluster:
        """What the cluster is: version, totals."""
        return self._call("GetCluster", v1.GetClusterRequest())

    def whoami(self) -> v1.WhoAmIResponse:
        """Whom the coordinator takes the caller for, and what the caller may do."""
        return self._call("WhoAmI", v1.WhoAmIRequest())

    def workers(self) -> Iterator[v1.Worker]:
        """The workers in order of name."""
        request = v1.ListWorkersRequest(page_size=PAGE)
        while True:
            page = self._call("ListWorkers", request)
            yield from page.workers
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def worker(self, name: str) -> v1.Worker:
        """One worker."""
        return self._call("GetWorker", v1.GetWorkerRequest(name=name))

    def drain(self, name: str) -> v1.Worker:
        """Places nothing more on a worker; its jobs move at a step boundary."""
        return self._call("DrainWorker", v1.DrainWorkerRequest(name=name), safe=False)

    def undrain(self, name: str) -> v1.Worker:
        """Takes a drained worker back into service."""
        return self._call("UndrainWorker", v1.UndrainWorkerRequest(name=name), safe=False)

    # How calls are made

    @contextmanager
    def _channel(self) -> Iterator[grpc.Channel]:
        """The channel of one call. Where another one took its place meanwhile, its last call closes it."""
        held = self._borrow(grpc.insecure_channel, grpc.secure_channel)
        try:
            yield held.channel
        finally:
            for idle in self._give_back(held):
                idle.close()

    def _call(self, name: str, request: Any, *, safe: bool = True) -> Any:
        """One answer. What is not safe to repeat goes to a coordinator that is known to lead."""
        if not safe:
            self._call("GetCluster", v1.GetClusterRequest())
        attempts = Attempts(self._route, safe, ELECTION)
        while True:
            try:
                with self._channel() as channel:
                    call = _calls.callable_of(channel, METHODS[name])
                    answer = call(request, timeout=self._timeout, metadata=self._metadata())
                self._route.reached()
                return answer
            except grpc.RpcError as broken:
                error = of_rpc(broken, self._route.address)
            pause = attempts.pause(error)
            if pause is None:
                raise error from None
            time.sleep(pause)

    def _stream(self, name: str, request: Any, timeout: float | None, resume: Callable[[], None] | None) -> Iterator[Any]:
        """Answers one after another. A stream that breaks is taken up again with what `request` says after `resume`;
        without that only one that has brought nothing yet."""
        attempts: Attempts | None = None
        begun = False
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            with self._channel() as channel:
                call = _calls.callable_of(channel, METHODS[name])(request, timeout=left, metadata=self._metadata())
                try:
                    for answer in call:
                        self._route.reached()
                        attempts, begun = None, True
                        yield answer
                    return
                except grpc.RpcError as broken:
                    error = of_rpc(broken, self._route.address)
                finally:
                    call.cancel()
            attempts = attempts or Attempts(self._route, True, WATCH)
            pause = None if begun and resume is None else attempts.pause(error)
            if pause is None:
                raise error from None
            if resume is not None:
                resume()
            time.sleep(pause)
