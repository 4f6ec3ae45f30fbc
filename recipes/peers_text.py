"""Peers on text: the job's backbone through transformers, padded to the longest of a batch; tasks and figures.

Heads read the mean over a text's tokens, those of words the vector of a word's first token, behind one dropout.
"""

import statistics
import time

import tokenizers
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from cluster import DemoError, Found, link_data, run
from peers import Job, Order, Stepper, arguments, begin, here, known, linear_head, rows_of

transformers.logging.set_verbosity_error()

DATA = {"train": None, "validation": None, "test": None, "columns": {}, "labels": None, "samples_per_class": None}
NO_CLASS = -1


class Reader:
    """Texts, or lists of words, to token ids, by the model's tokenizer.json and the job's limit."""

    def __init__(self, job):
        self.inner = tokenizers.Tokenizer.from_file(str(job.file(job.backbone["path"]) / "tokenizer.json"))
        self.inner.no_padding()
        self.inner.enable_truncation(job.backbone["max_tokens"])

    def __call__(self, texts):
        """[(token ids, places of words' first tokens)]; a word that was cut off has None."""
        whole = isinstance(texts[0], str)
        read = []
        for text, encoding in zip(texts, self.inner.encode_batch(texts, is_pretokenized=not whole)):
            first = [None] * (0 if whole else len(text))
            for place, word in reversed(list(enumerate(encoding.word_ids))):
                if word is not None and not whole:
                    first[word] = place
            read.append((encoding.ids, first))
        return read


class Task:
    """A task of the job: classes, and inputs and targets of each split."""

    def __init__(self, job, spec, reader, limit):
        self.name, self.head, self.group = spec["name"], spec["head"], spec["input_group"]
        if self.head not in ("single_label", "tags"):
            raise DemoError(f"{job.path}: the head of {self.name} is {self.head}; its peer knows single_label and tags")
        for field in ("loss", "adapter"):
            if spec[field]:
                raise DemoError(f"{job.path}: {self.name} has the field {field}, which its peer does not know")
        data = known(spec["data"], DATA, f"{job.path}: data")
        words = self.head == "tags"
        asked = data["columns"].get("input", "tokens" if words else "text"), data["columns"].get("label", "tags" if words else "label")
        self.inputs, self.targets = {}, {}
        for split in ("train", "validation", "test"):
            if not data[split]:
                continue
            rows = rows_of(job, data[split], list(asked), limit)
            texts, labels = ([row[column] for row in rows] for column in asked)
            if split == "train":
                flat = [tag for tags in labels for tag in tags] if words else labels
                self.classes = data["labels"] or sorted(set(flat))
                number = {name: index for index, name in enumerate(self.classes)}
            self.inputs[split] = reader(texts)
            self.targets[split] = [[number.get(tag, NO_CLASS) for tag in label] if words else number.get(label, NO_CLASS)
                                   for label in labels]


def collate(inputs):
    """Token ids and mask [b, t] of some inputs, padded to the longest."""
    longest = max(len(ids) for ids, _ in inputs)
    ids = torch.zeros(len(inputs), longest, dtype=torch.long)
    mask = torch.zeros(len(inputs), longest, dtype=torch.long)
    for row, (own, _) in enumerate(inputs):
        ids[row, : len(own)] = torch.tensor(own)
        mask[row, : len(own)] = 1
    return ids, mask


def pooled(hidden, mask):
    """Means [b, h] over the tokens of each text."""
    weights = mask.unsqueeze(2).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


class Net(nn.Module):
    """The pretrained backbone and a linear head for each task. What is frozen drops nothing."""

    def __init__(self, job, outputs):
        super().__init__()
        if job.backbone["pooling"] != "mean" or job.backbone["init"] != "pretrained":
            raise DemoError(f"{job.path}: its peer knows pretrained backbones with pooling: mean")
        rates = {}
        if job.backbone["dropout"] is not None:
            rates = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), job.dropout)
        self.body = here(transformers.AutoModel.from_pretrained(job.file(job.backbone["path"]), add_pooling_layer=False, dtype=torch.float32, **rates))
        width = self.body.config.hidden_size
        self.heads = nn.ModuleDict({name: linear_head(width, count) for name, count in outputs.items()})
        self.drop = nn.Dropout(job.dropout)
        layers = self.body.encoder.layer
        if job.tuning == "all":
            self.frozen = []
        elif job.tuning == "heads":
            self.frozen = [self.body]
        elif list(job.tuning) == ["last_blocks"]:
            self.frozen = [self.body.embeddings, *layers[: max(0, len(layers) - job.tuning["last_blocks"])]]
        elif job.tuning == "biases":
            self.frozen = []
            for name, parameter in self.body.named_parameters():
                parameter.requires_grad_(name.endswith("bias"))
        elif list(job.tuning) == ["lora"]:
            self.frozen = []
            self.body = with_lora(self.body, job.tuning["lora"])
        else:
            raise DemoError(f"{job.path}: tuning is {job.tuning}, which its peer does not know")
        for part in self.frozen:
            part.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def forward(self, inputs):
        """Vectors of tokens [b, t, h] and of texts [b, h]."""
        ids, mask = collate(inputs)
        hidden = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden, pooled(hidden, mask)

    def stepper(self, job, total):
        return Stepper(job, self.body.parameters(), self.heads.parameters(), total)


def with_lora(body, how):
    """A model whose own numbers stay, with PEFT's low-rank updates."""
    import peft

    targets = how.get("targets")
    targets = "all-linear" if targets == ["all-linear"] else targets
    config = peft.LoraConfig(r=how["rank"], lora_alpha=how["alpha"], lora_dropout=how.get("dropout", 0.0), target_modules=targets)
    return here(peft.get_peft_model(body, config))


def word_vectors(hidden, inputs):
    """Vectors [w, h] of the words that have a token, and how many each text has."""
    places = [[place for place in first if place is not None] for _, first in inputs]
    rows = [row for row, own in enumerate(places) for _ in own]
    return hidden[rows, [place for own in places for place in own]], [len(own) for own in places]


def loss_of(net, task, hidden, features, inputs, targets):
    """Mean loss of some samples of a task, each counting the same."""
    head = net.heads[task.name]
    if task.head == "single_label":
        return F.cross_entropy(head(features), torch.tensor(targets))
    vectors, counts = word_vectors(hidden, inputs)
    tags = [tag for (_, first), own in zip(inputs, targets) for place, tag in zip(first, own) if place is not None]
    losses = F.cross_entropy(head(vectors), torch.tensor(tags), reduction="none")
    return torch.stack([own.mean() if len(own) else losses.sum() * 0 for own in losses.split(counts)]).mean()


@torch.no_grad()
def answers(net, tasks, inputs, batch=64):
    """{task: the class of each input, or of each of its words}, of tasks that read the same inputs."""
    net.eval()
    found = {task.name: [None] * len(inputs) for task in tasks}
    order = sorted(range(len(inputs)), key=lambda row: len(inputs[row][0]))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        part = [inputs[row] for row in rows]
        hidden, features = net(part)
        for task in tasks:
            head = net.heads[task.name]
            if task.head == "single_label":
                for row, best in zip(rows, head(features).argmax(1).tolist()):
                    found[task.name][row] = best
                continue
            best = iter(head(word_vectors(hidden, part)[0]).argmax(1).tolist())
            for row, (_, first) in zip(rows, part):
                found[task.name][row] = [None if place is None else next(best) for place in first]
    net.train()
    return found


def spans(tags):
    """Spans (type, first word, word after the last) of a text's tags, as conlleval and seqeval read them."""
    found = []
    for word, tag in enumerate(tags):
        if tag is None or tag == "O":
            continue
        part, _, kind = tag.partition("-")
        if part not in ("B", "I"):
            part, kind = "I", tag
        if part == "I" and found and found[-1][0] == kind and found[-1][2] == word:
            found[-1] = (kind, found[-1][1], word + 1)
        else:
            found.append((kind, word, word + 1))
    return found


def span_f1(truth, found):
    """2 · right / (spans there + spans found), over all texts' tags."""
    right = count = 0
    for there, said in zip(truth, found):
        there, said = set(spans(there)), set(spans(said))
        right += len(there & said)
        count += len(there) + len(said)
    return 2 * right / count if count else 0.0


def share_right(truth, found):
    return sum(one == other for one, other in zip(truth, found)) / len(truth)


def figures(task, split, found):
    """{metric: value} of a task's answers."""
    truth = task.targets[split]
    if task.head == "single_label":
        return {"accuracy": share_right(truth, found)}
    named = lambda samples: [[None if tag is None or tag < 0 else task.classes[tag] for tag in tags] for tags in samples]
    return {"span_f1": span_f1(named(truth), named(found)), "exact": share_right(truth, found)}


def grouped(tasks):
    """Tasks that read the same inputs, together."""
    groups = {}
    for task in tasks:
        groups.setdefault(task.group or task, []).append(task)
    return list(groups.values())


def evaluate(net, tasks, split, batch):
    """{task: answers} and {task: figures} of the tasks that have such a split."""
    found = {}
    for group in grouped(tasks):
        if split in group[0].inputs:
            found.update(answers(net, group, group[0].inputs[split], batch))
    return found, {task.name: figures(task, split, found[task.name]) for task in tasks if task.name in found}


def fit(job, tasks, seed):
    """Trains tasks together as the job says; the net, the best one on validation where the job wants that."""
    groups = grouped(tasks)
    sizes = [len(group[0].inputs["train"]) for group in groups]
    total, order = job.steps(sum(sizes)), Order(sizes, job.batch, seed)
    net = Net(job, {task.name: len(task.classes) for task in tasks}).train()
    stepper = net.stepper(job, total)
    validated = job.evaluation["select_best"] and any("validation" in task.inputs for task in tasks)
    every, best, kept = job.evaluation["every_steps"], -1.0, None
    for step in range(total):
        drawn = order.step(step)
        inputs = [group[0].inputs["train"][row] for group, rows in zip(groups, drawn) for row in rows]
        hidden, features = net(inputs)
        hidden, features = net.drop(hidden), net.drop(features)
        losses, start = [], 0
        counts = sum(len(rows) * len(group) for group, rows in zip(groups, drawn))
        for group, rows in zip(groups, drawn):
            own = slice(start, start + len(rows))
            start += len(rows)
            for task in group if rows else []:
                targets = [task.targets["train"][row] for row in rows]
                loss = loss_of(net, task, hidden[own], features[own], inputs[own], targets)
                losses.append(loss if job.balancer == "equal" else loss * len(rows) / counts)
        stepper.step(sum(losses))
        if validated and (step + 1 == total or every and (step + 1) % every == 0):
            _, scores = evaluate(net, tasks, "validation", job.evaluation["batch_size"])
            mean = statistics.mean(own.get("span_f1", own.get("accuracy")) for own in scores.values())
            if mean > best:
                best, kept = mean, {name: value.clone() for name, value in net.state_dict().items()}
    if kept:
        net.load_state_dict(kept)
    return net


def together_and_alone(doc, here, groups, files, prepare=lambda: None):
    """The peer of `cluster.together_and_alone`: a job's tasks together, and each of `groups` of their names alone."""
    def main():
        parser = arguments(doc)
        parser.add_argument("--ways", default="together,alone", help="which of: %(default)s")
        args = parser.parse_args()
        link_data(*files)
        prepare()
        job, found = Job(here / "job.yaml", args), Found()
        reader = Reader(job)
        tasks = [Task(job, spec, reader, args.limit) for spec in job.tasks]
        ways = [("together", tasks)] if "together" in args.ways.split(",") else []
        if "alone" in args.ways.split(","):
            ways += [("alone", [task for task in tasks if task.name in names]) for names in groups]
        for seed in args.seeds:
            for way, chosen in ways:
                began = begin(args, seed)
                net = fit(job, chosen, seed)
                _, scores = evaluate(net, chosen, "test", job.evaluation["batch_size"])
                for task in chosen:
                    found.add(f"{task.name}, {way}", seed, 100 * scores[task.name]["accuracy"], time.monotonic() - began)
        found.show("PyTorch, on the test set, %")
        found.keep(args.json)

    run(main)
