"""Trains the demo's five tasks for a few steps and plots which of them help and which hurt each other."""
import matplotlib.pyplot as plot
from espalier import Client

with Client() as cluster:
    short = {"name": "affinity", "training.steps": 30, "exchange.affinity": "on"}
    job = cluster.submit("recipes/debian-packages/job.yaml", overrides=short)
    cluster.wait(job.name)
    pairs = cluster.affinity(job.name).where(lambda cosine: cosine < 1)  # a task's own, 1, left out
limit = pairs.abs().max().max()
plot.imshow(pairs, cmap="RdBu", vmin=-limit, vmax=limit)
plot.colorbar(label="mean cosine of the tasks' gradients")
plot.xticks(range(len(pairs)), pairs.columns, rotation=45)
plot.yticks(range(len(pairs)), pairs.index)
plot.savefig("affinity.png", bbox_inches="tight")
