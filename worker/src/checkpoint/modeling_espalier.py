"""Sequence classification over a BERT encoder whose token vectors are pooled by mean, max, [CLS] or the last token."""

import torch
from torch import nn
from transformers import BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

POOLINGS = ("mean", "cls", "max", "last")


class EspalierForSequenceClassification(BertPreTrainedModel):
    # The encoder's file may hold BERT's own pooler, which nothing reads here.
    _keys_to_ignore_on_load_unexpected = [r"^bert\.pooler\."]

    def __init__(self, config):
        super().__init__(config)
        kind = getattr(config, "espalier_pooling", None)
        if kind not in POOLINGS:
            # Any other way of pooling would give logits that the classifier was not trained on.
            raise ValueError(f"config.json: espalier_pooling is {kind!r}, expected one of {', '.join(POOLINGS)}: export the job again")
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def pool(self, hidden, mask):
        kind = self.config.espalier_pooling
        if kind == "cls":
            return hidden[:, 0]
        if kind == "last":
            # The last position that is no padding, on whichever side padding stands.
            places = torch.arange(mask.shape[1], device=mask.device)
            last = (places * (mask != 0)).amax(dim=1)
            return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
        mask = mask.unsqueeze(-1)
        if kind == "max":
            return hidden.masked_fill(mask == 0, torch.finfo(hidden.dtype).min).amax(dim=1)
        mask = mask.to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None, **_):
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        hidden = self.bert(
            input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        logits = self.classifier(self.dropout(self.pool(hidden, attention_mask)))
        loss = None
        if labels is not None:
            if self.config.problem_type == "multi_label_classification":
                loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
            else:
                loss = nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)
