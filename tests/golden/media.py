"""Golden numbers of the tests of images and sounds, by transformers' audio_utils and PyTorch.

    python3 tests/golden/media.py > worker/src/data/golden.json    # needs torch and transformers
"""

import json

import numpy as np
import torch
import transformers
from transformers import ASTFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

rng = np.random.default_rng(7)


def wave(samples):
    """A rising tone with some noise, as 16-bit integers."""
    time = np.arange(samples) / 8000
    tone = np.sin(2 * np.pi * (300 + 4000 * time) * time) * np.exp(-6 * time)
    return np.round(32767 * (0.6 * tone + 0.02 * rng.standard_normal(samples))).astype(int)


def sound(samples, frames, normalise, **config):
    """A sound's features [mel bins, frames] for a configuration, which the test reads as it is."""
    pcm = wave(samples)
    win = config.get("win_length", config["n_fft"])
    filters = mel_filter_bank(
        num_frequency_bins=config["n_fft"] // 2 + 1,
        num_mel_filters=config["num_mel_bins"],
        min_frequency=config.get("frequency_min", 0.0),
        max_frequency=config.get("frequency_max", config["sampling_rate"] / 2),
        sampling_rate=config["sampling_rate"],
        norm=config.get("norm"),
        mel_scale=config.get("mel_scale", "htk"),
    )
    logs = spectrogram(
        pcm / 32768,
        window_function(win, "hann"),
        frame_length=win,
        hop_length=config["hop_length"],
        fft_length=config["n_fft"],
        power=2.0,
        center=True,
        pad_mode="reflect",
        mel_filters=filters,
        mel_floor=config.get("mel_floor", 1e-10),
        log_mel="log",
        dtype=np.float64,
    )
    whole = logs.shape[1]
    logs = logs[:, :frames]
    mean, std = {"none": (0, 1), "fixed": (config.get("mean"), config.get("std")), "sample": (logs.mean(), logs.std())}[normalise]
    features = np.full((config["num_mel_bins"], frames), config.get("padding_value", 0.0))
    features[:, : logs.shape[1]] = (logs - mean) / std
    config["feature_extractor_type"] = "EspalierLogMel"
    return {
        "config": config,
        "pcm": pcm.tolist(),
        "frames": frames,
        "cut": bool(whole > frames),
        "filters": filters.T.round(9).tolist(),
        "features": features.round(6).tolist(),
    }


def sound_of_ast(samples, bins, frames):
    """Features [mel bins, frames] of ASTFeatureExtractor."""
    pcm = wave(samples)
    extractor = ASTFeatureExtractor(num_mel_bins=bins, max_length=frames)
    features = extractor(pcm / 32768, sampling_rate=16000, return_tensors="np").input_values[0].T
    return {
        "config": extractor.to_dict(),
        "pcm": pcm.tolist(),
        "frames": frames,
        "cut": 1 + (samples - 400) // 160 > frames,
        "features": features.astype(float).round(6).tolist(),
    }


def picture(height, width, to_height, to_width):
    """An image, and the same resized with a triangle filter whose width grows as the image shrinks."""
    pixels = torch.tensor(rng.integers(0, 256, (1, 1, height, width)), dtype=torch.float32)
    pixels[..., height // 3 :, :] = pixels[..., height // 3 :, :] / 4 + 90
    resized = torch.nn.functional.interpolate(pixels, (to_height, to_width), mode="bilinear", antialias=True)
    return {"pixels": pixels[0, 0].int().tolist(), "resized": resized[0, 0].round().int().tolist()}


base = {"sampling_rate": 8000, "num_mel_bins": 12, "n_fft": 256, "hop_length": 80}
golden = {
    "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
    "sounds": [
        sound(700, 8, "none", **base),
        sound(900, 16, "sample", **base, win_length=200, do_normalize=True),
        sound(1200, 12, "fixed", **base, mel_scale="slaney", norm="slaney", mean=-8.0, std=4.0, padding_value=-1.5),
        sound(50, 3, "none", **base, frequency_min=100.0, frequency_max=3800.0, mel_floor=1e-5),
    ],
    "images": [picture(9, 12, 5, 7), picture(6, 6, 9, 13), picture(28, 28, 28, 14)],
    # Of 80 bins some hold no frequency of the spectrum.
    "sounds_of_ast": [sound_of_ast(2000, 80, 14), sound_of_ast(1900, 24, 6)],
}
print(json.dumps(golden))
