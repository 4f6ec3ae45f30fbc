#!/usr/bin/env python3
"""The same training in PyTorch and transformers: what this recipe is to be measured against.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite python3 recipes/topics/peer.py --seeds 1,2,3

Model, data, steps, batch, rates, schedule, dropout and clipping are those of job.yaml; batches are padded. One
forward pass serves coarse and fine kinds of a question.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from peers_text import together_and_alone
from run import DEMO, write_questions

FILES = [f"{name}/{split}.parquet" for name in ("ag_news", "trec50") for split in ("train", "test")]


def prepare():
    DEMO.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        write_questions(split)


if __name__ == "__main__":
    together_and_alone(__doc__, HERE, [["news"], ["coarse"], ["fine"]], FILES, prepare)
