"""Copies a job's model here and writes its losses as CSV: download.py NAME DIRECTORY"""

import sys
from pathlib import Path

from espalier import Client

name, folder = sys.argv[1], Path(sys.argv[2])
with Client() as cluster:
    print(cluster.download(name, folder))
    for series in cluster.series(name, ["loss/"]):
        lines = [f"{step},{mean}\n" for step, mean in zip(series.steps, series.means)]
        (folder / f"{series.name.replace('/', '-')}.csv").write_text("step,mean\n" + "".join(lines))
