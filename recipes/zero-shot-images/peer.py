#!/usr/bin/env python3
"""The same training in PyTorch and transformers: what this recipe is to be measured against.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite python3 recipes/zero-shot-images/peer.py --seeds 1,2,3

Network, map, loss, data, windows and mirroring, steps, batch, rates and schedule are those of job.yaml; another order
of the images and other first weights. Vectors of classes are made here, too, with transformers.
"""

import math
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import Found, link_data, run
from peers import ConvNet, Job, Order, Stepper, arguments, begin, here, known, rows_of
from peers_images import pixels
from peers_zero_shot import chosen, figures
from run import CLASSES, split_of, write_files
from vectors import MODEL, TEMPLATES, sentences

FIRST_SCALE, LARGEST_SCALE = 20.0, 100.0
DATA = {"train": None, "test": None, "augment": {}}
AUGMENT = {"crop": 0, "flip": False}


@torch.no_grad()
def class_vectors():
    """{class: vector at length 1}, as vectors.py makes them."""
    import transformers

    tokenizer, model = transformers.AutoTokenizer.from_pretrained(MODEL), here(transformers.AutoModel.from_pretrained(MODEL).eval())
    read = tokenizer(sentences(CLASSES), padding=True, return_tensors="pt").to(torch.get_default_device())
    there = read["attention_mask"].unsqueeze(2)
    means = (model(**read).last_hidden_state * there).sum(1) / there.sum(1)
    each = F.normalize(means, dim=1).view(len(CLASSES), len(TEMPLATES), -1)
    return dict(zip(CLASSES, F.normalize(each.mean(1), dim=1)))


def changed(x, how):
    """Images [b, c, y, x] seen through windows of the image's size out of one with `crop` black pixels around, half mirrored."""
    crop, (_, _, height, width) = how["crop"], x.shape
    padded = F.pad(x, [crop] * 4)
    images = []
    for one, (down, right) in zip(padded, torch.randint(2 * crop + 1, (len(x), 2)).tolist()):
        images.append(one[:, down : down + height, right : right + width])
    x = torch.stack(images)
    if how["flip"]:
        x = torch.where((torch.rand(len(x)) < 0.5).view(-1, 1, 1, 1), x.flip(3), x)
    return x


class Net(nn.Module):
    """The backbone, and a map of its features into the space of the vectors."""

    def __init__(self, job, width):
        super().__init__()
        self.body = ConvNet(job.file(job.backbone["path"]))
        self.drop, self.map = nn.Dropout(job.dropout), nn.Linear(self.body.width, width, bias=False)
        nn.init.normal_(self.map.weight, std=0.02)
        self.scale = nn.Parameter(torch.tensor([math.log(FIRST_SCALE)]))

    def forward(self, x, vectors):
        """Cosines [b, classes] of images and classes' vectors."""
        return F.normalize(self.map(self.drop(self.body(x))), dim=1) @ vectors.T


def train(job, how, images, targets, vectors, seed):
    """The net; `targets` number the rows of `vectors`, the classes that are trained on."""
    net = Net(job, vectors.shape[1]).train()
    total, order = job.steps(len(images)), Order([len(images)], job.batch, seed)
    stepper = Stepper(job, net.body.parameters(), [net.map.weight, net.scale], total)
    for step in range(total):
        rows = order.step(step)[0]
        logits = net(changed(images[rows], how), vectors) * net.scale.clamp(max=math.log(LARGEST_SCALE)).exp()
        stepper.step(F.cross_entropy(logits, targets[rows]))
    return net.eval()


def read(job, file, limit):
    """Images [n, c, y, x] from 0 to 1, and the names of their classes."""
    rows = rows_of(job, str(file), ["image", "label"], limit)
    return here(torch.from_numpy(pixels([row["image"] for row in rows])).float() / 255), [row["label"] for row in rows]


def main():
    parser = arguments(__doc__)
    parser.add_argument("--ways", default="trained,calibrated", help="which of: %(default)s")
    args = parser.parse_args()
    link_data(*(f"cifar10_sample/{name}.parquet" for name in ("train", "test")))
    job, found, ways = Job(HERE / "job.yaml", args), Found(), args.ways.split(",")
    data = known(job.tasks[0]["data"], DATA, f"{job.path}: data")
    how = known(data["augment"], AUGMENT, f"{job.path}: augment")
    known_by, tests = class_vectors(), read(job, data["test"], args.limit)

    @torch.no_grad()
    def cosines(net, images, vectors):
        return torch.cat([net(part, vectors) for part in images.split(job.evaluation["batch_size"])])

    for seed in args.seeds:
        unseen, left_out = split_of(seed)
        sets = {name: read(job, file, args.limit) for name, file in write_files(unseen, left_out).items()}

        def trained(name, others):
            """A net trained on a set, the names of its classes and the others, how many it knows, all vectors."""
            images, labels = sets[name]
            seen = sorted(set(labels))
            names = [*seen, *others]
            vectors = torch.stack([known_by[one] for one in names])
            targets = torch.tensor([names.index(label) for label in labels])
            net = train(job, how, images, targets, vectors[: len(seen)], seed)
            return net, names, len(seen), vectors

        def numbers(names, labels):
            return torch.tensor([names.index(label) for label in labels])

        began = begin(args, seed)
        net, names, seen, vectors = trained("train", unseen)
        on_test, truth = cosines(net, tests[0], vectors), numbers(names, tests[1])
        for way in ways:
            calibration = 0.0
            if way == "calibrated":
                first, fewer, count, own = trained("fewer", left_out)
                images, labels = sets["held-out"]
                calibration = chosen(cosines(first, images, own), numbers(fewer, labels), count)
                print(f"seed {seed}: calibration {calibration:.3f}", flush=True)
            for figure, value in figures(on_test, truth, seen, calibration).items():
                found.add(f"{way}, {figure}", seed, 100 * value, time.monotonic() - began)
    found.show("PyTorch, on the test set, %")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)
