"""The client for asyncio; `client` says what each method does."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from . import _calls, _progress, export, frames, jobfile, v1
from ._calls import ELECTION, METHODS, PAGE, TIMEOUT, WATCH
from ._route import Attempts
from .errors import of_rpc

if TYPE_CHECKING:
    import pandas


class AsyncClient(_calls.Calls):
    """As `Client`, with coroutines and asynchronous iterators; use it in `async with`, within one event loop."""

    def __init__(self, server: str | None = None, *, token: str | None = None, token_file: str | os.PathLike[str] | None = None,
                 ca: str | os.PathLike[str] | None = None, cert: str | os.PathLike[str] | None = None,
                 key: str | os.PathLike[str] | None = None, server_name: str | None = None, timeout: float = TIMEOUT) -> None:
        super().__init__(server, token, token_file, ca, cert, key, server_name, timeout)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        for channel in self._all_channels():
            await channel.close()

    # Jobs

    async def submit(self, job: jobfile.Job, *, request_id: str | None = None, overrides: Mapping[str, Any] | None = None,
               folder: str | os.PathLike[str] | None = None) -> v1.Job:
        """Submits a job: a job file's path, its text, a dict of the same form, or a JobSpec; see `jobfile.read`.

        Answers when the job is durably stored. Calls with the same `request_id`, a UUID, create one job: give one of
        your own to be able to submit again after your program broke off.
        """
        request = self._create_request(job, request_id, overrides, folder, False)
        return await self._call("CreateJob", request)

    async def validate(self, job: jobfile.Job, *, overrides: Mapping[str, Any] | None = None,
                 folder: str | os.PathLike[str] | None = None) -> v1.JobSpec:
        """Lets the coordinator check a job; nothing is created. Answers the spec with all defaults filled in."""
        return (await self._call("CreateJob", self._create_request(job, None, overrides, folder, True))).spec

    async def get(self, name: str) -> v1.Job:
        """One job."""
        return await self._call("GetJob", v1.GetJobRequest(name=name))

    async def list(self, *, states: Iterable[str | int] = (), namespace: str = "") -> AsyncIterator[v1.Job]:
        """Jobs in order of creation, of some states (`RUNNING`, ...) and one namespace; by default all."""
        request = v1.ListJobsRequest(page_size=PAGE, states=_calls.states_of(states), namespace=namespace)
        while True:
            page = await self._call("ListJobs", request)
            for job in page.jobs:
                yield job
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def watch(self, name: str, *, after_sequence: int = 0, timeout: float | None = None) -> AsyncIterator[v1.WatchJobResponse]:
        """A job's events after a sequence number, and its progress as it changes, until it has ended.

        A watch that breaks goes on after the last event that was seen, at whichever coordinator leads then.
        """
        request = v1.WatchJobRequest(name=name, after_sequence=after_sequence)
        async for update in self._stream("WatchJob", request, timeout, lambda: None):
            # The request of the next try, should there be one.
            if update.WhichOneof("update") == "event":
                request.after_sequence = update.event.sequence
            yield update

    async def wait(self, name: str, *, progress: bool = True, timeout: float | None = None) -> v1.Job:
        """Waits until a job has succeeded, with a bar where tqdm is installed. Errors: JobFailedError, JobCancelledError."""
        with _progress.Display(name, progress) as display:
            async for update in self.watch(name, timeout=timeout):
                display.show(update)
        return _calls.ended(await self.get(name))

    async def logs(self, name: str, *, tail: int = 0, follow: bool = False) -> AsyncIterator[v1.LogLine]:
        """A job's log lines from all its ranks: the newest `tail` (0: all that are kept), and with `follow` new ones."""
        request = v1.TailJobLogsRequest(name=name, tail=tail, follow=follow)
        shown = _calls.Shown()
        async for line in self._stream("TailJobLogs", request, None, (lambda: shown.restart(request)) if follow else None):
            if shown.is_new(line):
                yield line

    async def cancel(self, name: str) -> v1.Job:
        """Ends a job for good."""
        return await self._call("CancelJob", v1.CancelJobRequest(name=name), safe=False)

    async def pause(self, name: str) -> v1.Job:
        """Writes a checkpoint at the next step and gives the ranks back."""
        return await self._call("PauseJob", v1.PauseJobRequest(name=name), safe=False)

    async def resume(self, name: str) -> v1.Job:
        """Puts a paused job back into the queue."""
        return await self._call("ResumeJob", v1.ResumeJobRequest(name=name), safe=False)

    async def delete(self, name: str) -> None:
        """Forgets an ended job; its files stay on the workers."""
        await self._call("DeleteJob", v1.DeleteJobRequest(name=name), safe=False)

    # What came of it

    async def affinity(self, name: str, figure: str = "cosine") -> pandas.DataFrame:
        """How the gradients of a job's tasks relate: a symmetric frame of tasks; `figure`: see `frames.FIGURES`."""
        return frames.affinity(await self.get(name), figure)

    async def scores(self, name: str, split: str = "test") -> pandas.DataFrame:
        """The newest evaluation on a split (`test`, `validation`): a row for each task and metric, with its `score` and
        the `baseline` of always answering the most frequent class, or the mean."""
        return frames.scores(await self.get(name), split)

    async def series(self, name: str, series: Iterable[str] = (), *, from_step: int = 0, to_step: int = 0,
               max_points: int = 0) -> Sequence[v1.Series]:
        """How figures of a job went: by name, all that begin with `loss/` and the like, or all."""
        request = v1.GetJobSeriesRequest(name=name, series=series, from_step=from_step, to_step=to_step, max_points=max_points)
        return [*(await self._call("GetJobSeries", request)).series]

    async def series_frame(self, name: str, series: Iterable[str] = (), **which: int) -> pandas.DataFrame:
        """The same as a frame: a row for each step, a column for each series."""
        return frames.series(await self.series(name, series, **which))

    async def export_path(self, name: str) -> str:
        """The directory of the exported model, as the workers see it."""
        return _calls.export_of(await self.get(name))

    async def download(self, name: str, to: str | os.PathLike[str]) -> Path:
        """Copies the exported model into a new or empty directory; this machine must see the export's directory."""
        job = await self.get(name)
        return export.copy(job, _calls.export_of(job), Path(to))

    # The cluster

    async def cluster(self) -> v1.Cluster:
        """What the cluster is: version, totals."""
        return await self._call("GetCluster", v1.GetClusterRequest())

    async def whoami(self) -> v1.WhoAmIResponse:
        """Whom the coordinator takes the caller for, and what the caller may do."""
        return await self._call("WhoAmI", v1.WhoAmIRequest())

    async def workers(self) -> AsyncIterator[v1.Worker]:
        """The workers in order of name."""
        request = v1.ListWorkersRequest(page_size=PAGE)
        while True:
            page = await self._call("ListWorkers", request)
            for worker in page.workers:
                yield worker
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def worker(self, name: str) -> v1.Worker:
        """One worker."""
        return await self._call("GetWorker", v1.GetWorkerRequest(name=name))

    async def drain(self, name: str) -> v1.Worker:
        """Places nothing more on a worker; its jobs move at a step boundary."""
        return await self._call("DrainWorker", v1.DrainWorkerRequest(name=name), safe=False)

    async def undrain(self, name: str) -> v1.Worker:
        """Takes a drained worker back into service."""
        return await self._call("UndrainWorker", v1.UndrainWorkerRequest(name=name), safe=False)

    # How calls are made

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """The channel of one call. Where another one took its place meanwhile, its last call closes it."""
        held = self._borrow(grpc.aio.insecure_channel, grpc.aio.secure_channel)
        try:
            yield held.channel
        finally:
            for idle in self._give_back(held):
                await idle.close()

    async def _call(self, name: str, request: Any, *, safe: bool = True) -> Any:
        """One answer. What is not safe to repeat goes to a coordinator that is known to lead."""
        if not safe:
            await self._call("GetCluster", v1.GetClusterRequest())
        attempts = Attempts(self._route, safe, ELECTION)
        while True:
            try:
                async with self._channel() as channel:
                    call = _calls.callable_of(channel, METHODS[name])
                    answer = await call(request, timeout=self._timeout, metadata=self._metadata())
                self._route.reached()
                return answer
            except grpc.RpcError as broken:
                error = of_rpc(broken, self._route.address)
            pause = attempts.pause(error)
            if pause is None:
                raise error from None
            await asyncio.sleep(pause)

    async def _stream(self, name: str, request: Any, timeout: float | None, resume: Callable[[], None] | None) -> AsyncIterator[Any]:
        """Answers one after another. A stream that breaks is taken up again with what `request` says after `resume`;
        without that only one that has brought nothing yet."""
        attempts: Attempts | None = None
        begun = False
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            async with self._channel() as channel:
                call = _calls.callable_of(channel, METHODS[name])(request, timeout=left, metadata=self._metadata())
                try:
                    async for answer in call:
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
            await asyncio.sleep(pause)
