"""How a job's progress is shown: a bar of tqdm where it is installed, lines on stderr where not."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from . import v1

# Lines without a bar: one for each so many percent.
PERCENT = 10


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
        losses = {task: f"{loss:.3f}" for task, loss in sorted(progress.losses.items())}
        if self._tqdm:
            if self._bar is None:
                # What was done before is no pace of now.
                self._bar = self._tqdm(total=progress.total_steps, initial=progress.step, desc=self._name, unit="step", dynamic_ncols=True)
            self._bar.total = progress.total_steps
            self._bar.set_postfix(losses, refresh=False)
            # Set rather than added to: after a loss a job repeats steps.
            self._bar.n = progress.step
            self._bar.refresh()
            return
        part = 100 * progress.step // max(1, progress.total_steps) // PERCENT
        if part != self._shown:
            self._shown = part
            told = ", ".join(f"{task} {loss}" for task, loss in losses.items())
            print(f"{self._name}: step {progress.step} of {progress.total_steps}; {told}", file=sys.stderr, flush=True)
