"""How a job's progress is shown: a bar of tqdm where it is installed, lines on stderr where not."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from . import v1

# Lines without a bar: one for each so many percent.
PERCENT = 10
# Tasks whose losses are shown apart, at most.
NAMED = 2
FORMAT = "{desc}: {percentage:3.0f}% |{bar}| step {n_fmt} of {total_fmt}{postfix}"


class Display:
    """Shows the updates of a watch, if at all."""

    def __init__(self, name: str, wanted: bool) -> None:
        self._name, self._wanted = name, wanted
        self._bar: Any = None
        self._shown = -1
        self._tqdm: Any = None
        if wanted:
            try:
                from tqdm import tqdm

                self._tqdm = tqdm
            except ImportError:
                pass

    def __enter__(self) -> Display:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, update: v1.WatchJobResponse) -> None:
        """One update."""
        if not self._wanted:
            return
        if update.WhichOneof("update") == "event":
            line = f"{self._name}: {v1.Job.State.Name(update.event.state)}: {update.event.message}"
            self._tqdm.write(line, file=sys.stderr) if self._tqdm else print(line, file=sys.stderr, flush=True)
            return
        progress = update.progress
        told = said(progress)
        if self._tqdm:
            if self._bar is None:
                self._bar = self._tqdm(total=progress.total_steps, desc=self._name, bar_format=FORMAT, dynamic_ncols=True)
            self._bar.total = progress.total_steps
            # Set rather than added to: after a loss a job repeats steps.
            self._bar.n = progress.step
            self._bar.set_postfix_str(told)
            return
        part = 100 * progress.step // max(1, progress.total_steps) // PERCENT
        if part != self._shown:
            self._shown = part
            print(f"{self._name}: step {progress.step} of {progress.total_steps}, {told}", file=sys.stderr, flush=True)


def said(progress: v1.Progress) -> str:
    """Loss, pace and time left, as the coordinator says them: evaluations and pauses don't make the pace a slower one."""
    losses = sorted(progress.losses.items())
    if len(losses) > NAMED:
        # Of many tasks there is room for the mean alone.
        losses = [(f"loss of {len(losses)} tasks", sum(loss for _, loss in losses) / len(losses))]
    parts = [f"{task} {loss:.3f}" for task, loss in losses]
    if progress.samples_per_second > 0:
        parts.append(f"{progress.samples_per_second:.0f} samples/s")
    if progress.HasField("eta") and progress.step < progress.total_steps:
        parts.append(f"{progress.eta.seconds // 60}:{progress.eta.seconds % 60:02} left")
    return ", ".join(parts)
