"""Answers as pandas frames; pandas is asked for only here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import v1
from .errors import EspalierError, NotThereError

if TYPE_CHECKING:
    import pandas

# What a cell of an affinity frame may say of a pair of tasks: mean cosine of their gradients, its standard
# deviation from step to step, share of steps in which it was negative, steps that both were in.
FIGURES = {"cosine": 1.0, "deviation": 0.0, "conflicts": 0.0, "steps": None}


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise EspalierError("frames need pandas: pip install pandas, or install this package as espalier[pandas]") from error
    return pandas


def affinity(job: v1.Job, figure: str = "cosine") -> pandas.DataFrame:
    """A symmetric frame with a row and a column for each task; not a number where a pair was never in one step."""
    if figure not in FIGURES:
        raise EspalierError(f"no figure is named {figure!r}: there are {', '.join(FIGURES)}")
    if len(job.spec.tasks) == 1:
        raise NotThereError(f"job {job.name} has no affinity: it has one task, and affinity compares tasks")
    if not job.progress.HasField("affinity"):
        raise NotThereError(f"job {job.name} has no affinity after {job.progress.step} steps: it comes with the first steps of jobs "
                            "whose balancer sees tasks' gradients apart, or that say `exchange: {affinity: on}`")
    found = job.progress.affinity
    tasks = [one.task for one in found.tasks]
    frame = _pandas().DataFrame(float("nan"), index=tasks, columns=tasks)
    for one in found.tasks:
        frame.loc[one.task, one.task] = FIGURES[figure] if FIGURES[figure] is not None else float(one.steps)
    for pair in found.pairs:
        frame.loc[pair.a, pair.b] = frame.loc[pair.b, pair.a] = float(getattr(pair, figure))
    return frame


def scores(job: v1.Job, split: str = "test") -> pandas.DataFrame:
    """A row for each task and metric of the newest evaluation on a split; the loss has no baseline."""
    newest = next((one for one in reversed(job.evaluations) if one.split == split), None)
    if newest is None:
        there = ", ".join(sorted({one.split for one in job.evaluations})) or "none so far"
        raise NotThereError(f"job {job.name} has no evaluation on the split {split!r}, of others: {there}; `test` comes when the job "
                            "has trained, `validation` while it does, each where a task has data for it")
    rows = [(task, metric, value, found.baseline.get(metric, float("nan")))
            for task, found in sorted(newest.tasks.items())
            for metric, value in [("loss", found.loss), *sorted(found.metrics.items())]]
    return _pandas().DataFrame(rows, columns=["task", "metric", "score", "baseline"]).set_index(["task", "metric"])


def series(found: Iterable[v1.Series]) -> pandas.DataFrame:
    """A row for each step, a column for each series; not a number where a series has no point at a step."""
    columns = {one.name: _pandas().Series(list(one.means), index=list(one.steps), dtype=float) for one in found}
    frame = _pandas().DataFrame(columns)
    frame.index.name = "step"
    return frame
