"""Golden numbers of the head of answers in contexts, by transformers.

    python3 tests/golden/span.py > worker/src/heads/span.json    # needs torch, transformers

A small random BertForQuestionAnswering on pairs of texts. Of each pair: the last hidden states of its first
token and of its context's tokens, begin and end at these, the mean of both cross-entropies over them (those
of the question count for nothing) with its gradient, and the best answer of at most three tokens as
transformers' pipeline decodes it. Beside them pairs of answers as SQuAD's evaluation compares them.
"""

import json
import sys

import numpy
import torch
from transformers import BertConfig, BertForQuestionAnswering
from transformers.data.metrics.squad_metrics import compute_exact, compute_f1
from transformers.pipelines.question_answering import decode_spans

MOST = 3
# Ids of a pair, where its context begins, the number of its tokens, and where the answer begins and ends in
# the ids; 0 for no answer.
PAIRS = [
    ([2, 5, 6, 3, 7, 8, 9, 10, 3], 4, 4, (5, 6)),
    ([2, 5, 3, 11, 12, 7, 3], 3, 3, (0, 0)),
    ([2, 6, 9, 8, 3, 5, 3], 5, 1, (5, 5)),
    ([2, 9, 9, 3, 6, 12, 3], 4, 2, (4, 5)),
    ([2, 8, 3, 9, 11, 5, 6, 3], 3, 4, (6, 6)),
    ([2, 7, 7, 3, 4, 4, 3], 4, 2, (0, 0)),
]
ANSWERS = [
    (["The red fox."], "red fox"),
    (["in 1990", "1990"], "the year 1990"),
    (["Denver Broncos"], "Denver, Broncos!"),
    (["a"], "the"),
    ([], ""),
    ([], "fox"),
    (["U.S."], "us army"),
    (["rock-and-roll"], "rock and roll"),
    (["the “An” – of Ärzte"], "“” – of ärzte"),
    (["x x y"], "x y y"),
]


def best(begins, ends):
    """Places of the best answer, and its score; the first place is none."""
    is_answer = numpy.array([0] + [1] * (len(begins) - 1))
    probabilities = [torch.softmax(logits, 0).numpy() for logits in (begins, ends)]
    # All of them in order, of which the first that is an answer counts.
    starts, stops, scores = decode_spans(*probabilities, len(begins) ** 2 + 1, MOST, is_answer)
    none = (probabilities[0][0] * probabilities[1][0]).item()
    if none >= scores[0]:
        return [0, 0], none
    return [int(starts[0]), int(stops[0])], scores[0].item()


def pair(model, ids, begin, count, target):
    types = [int(place >= begin) for place in range(len(ids))]
    found = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types]), output_hidden_states=True)
    places = [0] + list(range(begin, begin + count))
    outputs = torch.stack([found.start_logits[0, places], found.end_logits[0, places]], 1).detach().requires_grad_()
    targets = torch.tensor([places.index(place) for place in target])
    loss = torch.nn.functional.cross_entropy(outputs.T, targets)
    loss.backward()
    answer, score = best(*outputs.detach().T)
    return {"rows": found.hidden_states[-1][0, places].tolist(), "outputs": outputs.tolist(), "target": targets.tolist(),
            "loss": loss.item(), "gradient": outputs.grad.tolist(), "best": answer, "score": score}


def main():
    torch.manual_seed(17)
    config = BertConfig(vocab_size=13, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
                        max_position_embeddings=10, type_vocab_size=2, initializer_range=0.5)
    model = BertForQuestionAnswering(config).eval()
    torch.nn.init.normal_(model.qa_outputs.bias)
    # What is right is compared answer by answer; a question without any wants an empty one.
    scores = [(right, found, max(compute_exact(one, found) for one in right or [""]),
               max(compute_f1(one, found) for one in right or [""])) for right, found in ANSWERS]
    golden = {
        "most": MOST,
        "weight": model.qa_outputs.weight.tolist(),
        "bias": model.qa_outputs.bias.tolist(),
        "pairs": [pair(model, *one) for one in PAIRS],
        "answers": [{"right": r, "found": f, "exact": float(e), "f1": float(f1)} for r, f, e, f1 in scores],
    }
    json.dump(golden, sys.stdout, separators=(",", ":"), ensure_ascii=False)
    print()


if __name__ == "__main__":
    main()
