"""The models, files and jobs that the checks train: out of what `carry.py` packed, written anew where they differ."""

import json
import shutil
from pathlib import Path

from stage import Failure

# What differs from the carried config.json, which is all-MiniLM-L6-v2's. Weights are random: only shapes count here.
SHAPES = {
    "MiniLM": {},
    "BERT-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
}
MAX_TOKENS = 64
# Rows that are evaluated after every step of the check of losses.
EVALUATED = 48
# Steps of a job that is measured and then cancelled.
ENDLESS = 1_000_000


class Material:
    """Models and files, below a folder that goes when all is done."""

    def __init__(self, carried, folder):
        self.carried, self.folder = Path(carried), Path(folder)

    def model(self, shape):
        """Directory of a model of this shape, without weights."""
        folder = self.folder / "models" / shape
        if not folder.is_dir():
            folder.mkdir(parents=True)
            config = json.loads((self.carried / "model/config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, **SHAPES[shape]}, indent=1))
            shutil.copyfile(self.carried / "model/tokenizer.json", folder / "tokenizer.json")
        return folder

    def file(self, name):
        path = self.carried / "data" / name
        if not path.is_file():
            raise Failure(f"no {path}: tests/gpu/carry.py brings it")
        return path

    def rows(self, name):
        """[{text, label}] of a carried Parquet file."""
        import pyarrow.parquet
        return pyarrow.parquet.read_table(self.file(name), columns=["text", "label"]).to_pylist()

    def written(self, name, rows):
        """JSON Lines of these rows."""
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def some(self, name):
        """The first rows of a carried file as a file of their own."""
        path = self.folder / f"{Path(name).stem}.some.jsonl"
        return path if path.is_file() else self.written(path.name, self.rows(name)[:EVALUATED])

    def long(self):
        """News of at least MAX_TOKENS tokens: cut at as many, all texts are equally long."""
        import tokenizers
        path = self.folder / "long.jsonl"
        if path.is_file():
            return path
        tokenizer = tokenizers.Tokenizer.from_file(str(self.carried / "model/tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        rows = self.rows("news.train.parquet")
        lengths = [len(one.ids) for one in tokenizer.encode_batch([row["text"] for row in rows])]
        return self.written(path.name, [row for row, length in zip(rows, lengths) if length >= MAX_TOKENS])

    def tasks(self, evaluated=False):
        """Two tasks on texts: topics of news, kinds of questions."""
        tasks = []
        for name in ("news", "questions"):
            data = {"train": [str(self.file(f"{name}.train.parquet"))]}
            if evaluated:
                data["validation"] = [str(self.some(f"{name}.test.parquet"))]
            tasks.append({"name": name, "head": "single_label", "data": data})
        return tasks


def spec(name, model, tasks, kind, ranks=1, steps=ENDLESS, batch=32, **more):
    """A job: weights at random from the seed, dropout as config.json has it, no snapshots and no checkpoints but its last."""
    return {
        "name": name,
        "seed": 7,
        "backbone": {"path": str(model), "init": "random", "max_tokens": MAX_TOKENS},
        "tasks": tasks,
        "training": {
            "steps": steps, "batch_size": batch,
            "optimizer": {"learning_rate": 2.0e-4, "head_learning_rate": 2.0e-3},
            "schedule": {"kind": "constant", "warmup_ratio": 0.0},
        },
        "evaluation": {"select_best": False},
        "checkpoint": {"every_steps": 0},
        "recovery": {"snapshot_every": 0},
        "resources": {"ranks": ranks, "device": kind},
        **more,
    }


def losses(lines):
    """Of metrics.jsonl: {(what, step, task): loss} of every evaluation and of the first step's training."""
    found = {}
    for line in lines:
        if "evaluation" in line:
            one = line["evaluation"]
            found.update({(one["split"], int(one["step"]), task): scores["loss"] for task, scores in one["tasks"].items()})
        elif "progress" in line and int(line["progress"]["step"]) == 1:
            found.update({("training", 1, task): loss for task, loss in line["progress"]["losses"].items()})
    return found
