#!/usr/bin/env python3
"""The same training in PyTorch, transformers and PEFT, for the ways that these have: what this recipe is measured against.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite python3 recipes/tuning/peer.py --seeds 1,2,3
"""

import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import Found, link_data, run
from peers import Job, arguments, begin
from peers_text import Reader, Task, evaluate, fit
from run import FILES, HEAD_RATE, RATE, WAYS, ways_of

KNOWN = [way for way, fields in WAYS.items() if set(fields) <= {"tuning", RATE, HEAD_RATE} and way not in ("gradual", "adapter", "prompt", "prefix")]


def main():
    parser = arguments(__doc__)
    parser.add_argument("--ways", type=lambda text: text.split(","), default=KNOWN, help="which of: " + ", ".join(KNOWN))
    args = parser.parse_args()
    ways = ways_of(args, KNOWN)
    link_data(*FILES)
    found = Found()
    for seed in args.seeds:
        for way in ways:
            job, fields = Job(HERE / "job.yaml", args), WAYS[way]
            job.tuning = fields.get("tuning", job.tuning)
            for field in (RATE, HEAD_RATE):
                name = field.rpartition(".")[2]
                job.optimizer[name] = fields.get(field, job.optimizer[name])
            tasks = [Task(job, spec, Reader(job), args.limit) for spec in job.tasks]
            began = begin(args, seed)
            _, scores = evaluate(fit(job, tasks, seed), tasks, "test", job.evaluation["batch_size"])
            found.add(way, seed, 100 * scores["question"]["accuracy"], time.monotonic() - began)
    found.show("PyTorch, accuracy on test, %")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)
