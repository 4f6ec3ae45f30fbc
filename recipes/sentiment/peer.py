#!/usr/bin/env python3
"""The same training in PyTorch and transformers: what this recipe is to be measured against.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite python3 recipes/sentiment/peer.py --seeds 1,2,3

Model, data, steps, batch, rates, schedule, dropout and clipping are those of job.yaml; batches are padded.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from peers_text import together_and_alone

SHOPS = ["books", "dvd", "electronics", "kitchen"]
FILES = [f"sst2/{split}.parquet" for split in ("train", "validation", "test")]
FILES += [f"amazon_{shop}/{split}.parquet" for shop in SHOPS for split in ("train", "test")]

if __name__ == "__main__":
    together_and_alone(__doc__, HERE, [["films"], ["reviews"]], FILES)
