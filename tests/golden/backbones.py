"""Golden numbers of the backbones' tests, by transformers.

    python3 tests/golden/backbones.py > worker/src/model/golden.json    # needs torch, transformers

Small models of every family, with weights by a formula that the test repeats: number j of tensor k (in
order of names) is 0.2 sin(k + 0.7 j), and 1 more where the name ends in a norm's `weight` or is a variance. Of each:
features by every way of pooling, and, for the loss that is the sum of mean-pooled features times
cos(place), the L2 norm of the gradient of every tensor. Of decoders also the logits of every token and what
follows the third text greedily; a vocabulary matrix of its own is filled as if it were tensor 100.
"""

import json
import math
import sys

import torch
from transformers import (ASTConfig, ASTModel, BertConfig, BertModel, DistilBertConfig, DistilBertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig,
                          LlamaForCausalLM, MPNetConfig, MPNetModel, ResNetConfig, ResNetModel, RobertaConfig, RobertaModel,
                          ViTConfig, ViTModel)
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

# No token is a padding, which RoBERTa numbers apart.
TEXTS = [[3, 4, 7, 2], [3, 9], [5, 6, 8, 10, 2, 3], [9, 2]]
# Of pairs: where the second text begins.
SECONDS = [2, 2, 5, 1]
IMAGES, CHANNELS, SIZE, LARGE = 3, 2, 6, 18
MEL_BINS, FRAMES = 10, 13
LIKE_BERT = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
             "max_position_embeddings": 10, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LIKE_LLAMA = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
              "max_position_embeddings": 10, "bos_token_id": 0, "eos_token_id": 0}
FAMILIES = {
    "bert": (BertModel, BertConfig(**LIKE_BERT, type_vocab_size=2)),
    "pairs": (BertModel, BertConfig(**LIKE_BERT, type_vocab_size=2)),
    "roberta": (RobertaModel, RobertaConfig(**LIKE_BERT, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5)),
    "distilbert": (DistilBertModel, DistilBertConfig(vocab_size=11, dim=8, n_layers=2, n_heads=2, hidden_dim=12,
                                                     max_position_embeddings=10, dropout=0.0, attention_dropout=0.0)),
    "mpnet": (MPNetModel, MPNetConfig(**LIKE_BERT, relative_attention_num_buckets=32, pad_token_id=1, layer_norm_eps=1e-5)),
    "vit": (ViTModel, ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, image_size=SIZE,
                                patch_size=3, num_channels=CHANNELS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)),
    "ast": (ASTModel, ASTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, patch_size=4,
                                frequency_stride=3, time_stride=4, num_mel_bins=MEL_BINS, max_length=FRAMES,
                                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)),
    "resnet": (ResNetModel, ResNetConfig(num_channels=CHANNELS, embedding_size=4, hidden_sizes=[4, 6], depths=[1, 2], layer_type="basic")),
    "bottleneck": (ResNetModel, ResNetConfig(num_channels=CHANNELS, embedding_size=4, hidden_sizes=[8, 12], depths=[2, 1],
                                             layer_type="bottleneck", downsample_in_first_stage=True)),
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=11, n_embd=8, n_layer=2, n_head=2, n_inner=12, n_positions=10, resid_pdrop=0.0,
                                         embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)),
    # One head of keys and values for two of queries; its own vocabulary matrix.
    "llama": (LlamaForCausalLM, LlamaConfig(**LIKE_LLAMA, num_key_value_heads=1, tie_word_embeddings=False)),
    "llama_tied": (LlamaForCausalLM, LlamaConfig(**LIKE_LLAMA, num_key_value_heads=2, tie_word_embeddings=True)),
    # Scaled rotary positions; of llama_3's four angles one is fast, two are between and one is slow.
    "llama_linear": (LlamaForCausalLM, LlamaConfig(**LIKE_LLAMA, num_key_value_heads=1, tie_word_embeddings=True, rope_theta=100.0,
                                                   rope_scaling={"rope_type": "linear", "factor": 4.0})),
    "llama_3": (LlamaForCausalLM, LlamaConfig(**LIKE_LLAMA, num_key_value_heads=1, head_dim=8, tie_word_embeddings=True, rope_theta=100.0,
                                              rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                                            "high_freq_factor": 4.0, "original_max_position_embeddings": 64})),
}
DECODERS = ("gpt2", "llama", "llama_tied", "llama_linear", "llama_3")
# Rows that stand before the patches of an image or a sound.
TOKENS = {"vit": 1, "ast": 2}
# So many tokens follow the third text.
NEW_TOKENS = 4


def values_of(k, tensor, start=0.0):
    values = [start + 0.2 * math.sin(k + 0.7 * j) for j in range(tensor.numel())]
    return torch.tensor(values, dtype=torch.float64).to(torch.float32).reshape(tensor.shape)


def fill(model):
    with torch.no_grad():
        # The count of batches that a norm has seen is no number to compute with.
        numbers = [(name, tensor) for name, tensor in sorted(model.state_dict().items()) if tensor.is_floating_point()]
        for k, (name, tensor) in enumerate(numbers):
            norm = 1.0 if "norm" in name.lower() and name.endswith("weight") or name.endswith("running_var") else 0.0
            tensor.copy_(values_of(k, tensor, norm))


def decode(family, whole):
    """Logits of every token of every text, and what follows the third text."""
    if not whole.config.tie_word_embeddings:
        with torch.no_grad():
            whole.lm_head.weight.copy_(values_of(100, whole.lm_head.weight))
    texts = [torch.tensor([ids]) for ids in TEXTS]
    logits = torch.cat([whole(input_ids=ids).logits[0] for ids in texts])
    found = whole.generate(texts[2], attention_mask=torch.ones_like(texts[2]), max_new_tokens=NEW_TOKENS, do_sample=False,
                           eos_token_id=None, pad_token_id=0)
    return {"logits": logits.flatten().tolist(), "greedy": found[0, texts[2].shape[1]:].tolist()}


def pixels(size):
    count = IMAGES * CHANNELS * size * size
    return torch.tensor([math.sin(0.3 * j) for j in range(count)], dtype=torch.float64).float().reshape(IMAGES, CHANNELS, size, size)


def spectrograms():
    count = IMAGES * MEL_BINS * FRAMES
    values = torch.tensor([math.sin(0.3 * j) for j in range(count)], dtype=torch.float64).float()
    # Frames come first there.
    return values.reshape(IMAGES, MEL_BINS, FRAMES).transpose(1, 2)


def outputs(family, model):
    """[(rows of a sample [l, h], pooler's output or none)]"""
    if family == "ast":
        found = model(input_values=spectrograms())
        return list(zip(found.last_hidden_state, found.pooler_output))
    if family == "vit":
        found = model(pixel_values=pixels(SIZE))
        # Our means are over patches.
        return list(zip(found.last_hidden_state, found.pooler_output))
    if family in ("resnet", "bottleneck"):
        found = model(pixel_values=pixels(LARGE))
        # Places of an image are its rows.
        return list(zip(found.last_hidden_state.flatten(2).transpose(1, 2), found.pooler_output.flatten(1)))
    each = []
    for ids, second in zip(TEXTS, SECONDS):
        types = [int(family == "pairs" and place >= second) for place in range(len(ids))]
        of_pairs = {"token_type_ids": torch.tensor([types])} if family == "pairs" else {}
        found = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), **of_pairs)
        pooler = getattr(found, "pooler_output", None)
        each.append((found.last_hidden_state[0], None if pooler is None else pooler[0]))
    return each


def main():
    golden = {}
    for family, (kind, config) in FAMILIES.items():
        whole = kind(config).eval()
        model = whole.base_model if family in DECODERS else whole
        fill(model)
        each = outputs(family, model)
        bodies = [rows[TOKENS.get(family, 0):] for rows, _ in each]
        mean = torch.stack([rows.mean(0) for rows in bodies])
        features = {"mean": mean, "max": torch.stack([rows.amax(0) for rows in bodies])}
        if family not in ("resnet", "bottleneck"):
            features["cls"] = torch.stack([pooler if family == "ast" else rows[0] for rows, pooler in each])
            if family not in TOKENS:
                features["last"] = torch.stack([rows[-1] for rows, _ in each])
        if each[0][1] is not None:
            features["pooler"] = torch.stack([pooler for _, pooler in each])
        weights = torch.tensor([math.cos(j) for j in range(mean.numel())], dtype=torch.float64).float().reshape(mean.shape)
        (mean * weights).sum().backward()
        golden[family] = {
            "config": {key: value for key, value in config.to_dict().items() if key in config.to_diff_dict() or key in {**LIKE_BERT, **LIKE_LLAMA}},
            "features": {name: value.flatten().tolist() for name, value in features.items()},
            **(decode(family, whole) if family in DECODERS else {}),
            "gradients": {name: tensor.grad.norm().item() for name, tensor in model.named_parameters() if tensor.grad is not None},
        }
    # Buckets of MPNet's relative positions, from a key's place minus its query's.
    distances = torch.arange(-200, 201)
    golden["buckets"] = MPNetEncoder.relative_position_bucket(distances).tolist()
    json.dump(golden, sys.stdout, separators=(",", ":"))
    print()


main()
