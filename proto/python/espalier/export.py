"""Copies of exported models."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from . import v1
from .errors import EspalierError, NotThereError


def copy(job: v1.Job, path: str, to: Path) -> Path:
    """Copies a directory beside `to` and renames it, so that `to` is whole or absent. Answers `to`, absolute."""
    source, target = Path(path), Path(os.path.abspath(to))
    if not source.is_dir():
        worker = f"worker {job.plan.seats[0].worker}" if job.plan.seats else "a worker"
        raise NotThereError(f"the model is in {source} on {worker}, which this machine can't see: copy it from there, or set `output` "
                            "in the job file to a shared directory")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise EspalierError(f"{to} is there and not an empty directory: choose another one")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.parent / f".{target.name}.part-{os.getpid()}"
    try:
        shutil.copytree(source, part)
        if target.exists():
            target.rmdir()
        part.rename(target)
    except OSError as error:
        raise EspalierError(f"can't copy to {to}: {error}") from error
    finally:
        # What is left of a failed copy is of no use.
        shutil.rmtree(part, ignore_errors=True)
    return target
