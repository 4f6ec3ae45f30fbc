"""Trains the demo's five tasks for a few steps and plots which of them help and which hurt each other."""
import matplotlib.pyplot as plot
from espalier import Client

with Client() as cluster:
    short = {"name": "affinity", "training.steps": 30, "exchange.affinity": "on"}
    job = cluster.submit("recipes/debian-packages/job.yaml", overrides=short)
    cluster.wait(job.name)
    frame = cluster.affinity(job.name)
plot.imshow(frame, cmap="RdBu", vmin=-1, vmax=1)
plot.colorbar(label="mean cosine of the tasks' gradients")
plot.xticks(range(len(frame)), frame.columns, rotation=45)
plot.yticks(range(len(frame)), frame.index)
plot.savefig("affinity.png", bbox_inches="tight")
