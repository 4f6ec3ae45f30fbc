#!/usr/bin/env python3
"""The same training in plain PyTorch: what the jobs of this recipe are to be measured against.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite python3 recipes/spoken-digits/peer.py --seeds 1,2,3

Network, features, masks, steps, batch, rates and schedule are those of job.yaml and of convnet/; another order of
the sounds and other first weights.
"""

import io
import json
import sys
import time
import wave
from pathlib import Path

import numpy
import torch
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import DemoError, Found, link_data, run
from peers import ConvNet, Job, Order, Stepper, arguments, begin, known, linear_head, rows_of

FEATURES = {"feature_extractor_type": None, "sampling_rate": None, "num_mel_bins": None, "n_fft": None, "hop_length": None,
            "max_length": None, "mel_scale": "htk", "mel_floor": 1e-10, "do_normalize": True}
DATA = {"train": None, "test": None, "augment": {}}


class LogMel:
    """WAV to log-mel spectrograms [1, mel bins, frames], each with mean 0 and deviation 1, zeros behind the end."""

    def __init__(self, folder):
        self.how = known(json.loads((folder / "preprocessor_config.json").read_text()), FEATURES, folder)
        if self.how["mel_scale"] != "htk" or not self.how["do_normalize"]:
            raise DemoError(f"{folder}: the peer knows mel_scale htk with do_normalize only")
        size, rate, bins = self.how["n_fft"], self.how["sampling_rate"], self.how["num_mel_bins"]
        self.window = 0.5 - 0.5 * numpy.cos(2 * numpy.pi * numpy.arange(size) / size)
        top = 2595 * numpy.log10(1 + rate / 2 / 700)
        corners = 700 * (10 ** (numpy.linspace(0, top, bins + 2) / 2595) - 1)
        hertz = rate * numpy.arange(size // 2 + 1) / size
        up = (hertz[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
        down = (corners[2:] - hertz[:, None]) / (corners[2:] - corners[1:-1])
        self.filters = numpy.maximum(0, numpy.minimum(up, down))

    def __call__(self, sound):
        with wave.open(io.BytesIO(sound)) as file:
            if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, self.how["sampling_rate"]):
                raise DemoError(f"a sound is no mono WAV of 16 bits at {self.how['sampling_rate']} Hz")
            samples = numpy.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
        size, hop, most = self.how["n_fft"], self.how["hop_length"], self.how["max_length"]
        padded = numpy.pad(samples, size // 2, mode="reflect")
        frames = numpy.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:most]
        power = numpy.abs(numpy.fft.rfft(frames * self.window)) ** 2
        logs = numpy.log(numpy.maximum(power @ self.filters, self.how["mel_floor"]))
        features = numpy.zeros((self.how["num_mel_bins"], most), dtype=numpy.float32)
        features[:, : len(logs)] = ((logs - logs.mean()) / (logs.std() or 1.0)).T
        return features[None]


def masked(x, augment, generator):
    """A band of frames and one of mel bins of each spectrogram [b, 1, bins, frames], set to its mean."""
    below = lambda n: int(torch.randint(n, (1,), generator=generator))
    x = x.clone()
    for one in x:
        mean = one.mean()
        for most, axis in ((augment.get("time_mask", 0), 2), (augment.get("frequency_mask", 0), 1)):
            wide = below(most + 1)
            one.narrow(axis, below(one.shape[axis] - wide + 1), wide).fill_(mean)
    return x


def train(job, augment, sets, seed):
    """Accuracy on test, in percent."""
    (sounds, digits), (tests, truth) = sets
    net, generator = ConvNet(job.file(job.backbone["path"])), torch.Generator().manual_seed(seed)
    head, drop = linear_head(net.width, 10), torch.nn.Dropout(job.dropout)
    total, order = job.steps(len(sounds)), Order([len(sounds)], job.batch, seed)
    stepper = Stepper(job, net.parameters(), head.parameters(), total)
    for step in range(total):
        rows = order.step(step)[0]
        x = masked(sounds[rows], augment, generator) if augment else sounds[rows]
        stepper.step(F.cross_entropy(head(drop(net(x))), digits[rows]))
    with torch.no_grad():
        found = torch.cat([head(net(part)).argmax(1) for part in tests.split(100)])
    return 100 * (found == truth).float().mean().item()


def main():
    parser = arguments(__doc__)
    parser.add_argument("--ways", default="masks,plain", help="which of: %(default)s")
    args = parser.parse_args()
    link_data("fsdd/train.parquet", "fsdd/test.parquet")
    job, found = Job(HERE / "job.yaml", args), Found()
    data = known(job.tasks[0]["data"], DATA, f"{job.path}: data")
    reader, sets = LogMel(job.file(job.backbone["path"])), []
    for split in ("train", "test"):
        rows = rows_of(job, data[split], ["audio", "label"], args.limit)
        features = numpy.stack([reader(row["audio"]["bytes"]) for row in rows])
        sets.append((torch.from_numpy(features), torch.tensor([int(row["label"]) for row in rows])))
    for seed in args.seeds:
        for way in args.ways.split(","):
            began = begin(args, seed)
            score = train(job, data["augment"] if way == "masks" else {}, sets, seed)
            found.add(way, seed, score, time.monotonic() - began)
    found.show("PyTorch, accuracy on test, %")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)
