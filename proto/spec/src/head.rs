//! What heads predict, and how well: kinds of heads and their figures of merit.

use serde::{Deserialize, Serialize};

/// What a head predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// Exactly one of several classes (softmax, cross-entropy).
    SingleLabel,
    /// Any number of several classes (sigmoid, binary cross-entropy).
    MultiLabel,
    /// One number (mean squared error).
    Regression,
    /// One of several classes for every word of a text that comes as a list of words (softmax and
    /// cross-entropy per word): `B-x` begins a span of type x, `I-x` goes on with it, `O` is outside.
    Tags,
    /// One of several classes that have an order, such as one to five stars: whether the class is above
    /// each of them but the last (sigmoid and binary cross-entropy, one direction of the features for
    /// all: CORAL, Cao et al. 2020, arXiv 1901.07884). Texts need `data.labels`, in order.
    Ordinal,
    /// One of several classes, by the cosine between a text and the class's description, both read by the
    /// backbone (softmax over cosines times a learned factor). Classes that were never trained on are
    /// told by their description.
    LabelEmbedding,
    /// The next token at every place of a text (softmax over the vocabulary, cross-entropy); needs a
    /// decoder. It begins as the model's own vocabulary matrix and is trained apart from the word table,
    /// even where the model ties both.
    CausalLm,
    /// A text that comes in order with the frames of a sound or the columns of an image, nobody says where
    /// (connectionist temporal classification: Graves et al. 2006). The classes are characters.
    Ctc,
    /// One of several classes, by whether a text and a hypothesis on the class, read together, belong to each
    /// other (one output a pair, binary cross-entropy; Yin et al. 2019, arXiv 1909.00161). Classes that were
    /// never trained on are told by their hypothesis.
    Entailment,
    /// One of several classes for every pixel of an image; the label is a mask (a linear layer on every
    /// place of the backbone's last map of features, bilinear upsampling to the image's size, softmax and
    /// cross-entropy per pixel: Long et al. 2015, arXiv 1411.4038, without its skips). Needs
    /// `data.labels`, the class of each value of a mask, and a backbone of images.
    Segmentation,
    /// Where the answer to a question begins and ends in a context, or that there is none (softmax and
    /// cross-entropy over the context's tokens and the first one, for begin and end; Devlin et al. 2019,
    /// arXiv 1810.04805, section 4.2). The input is the question, the pair its context.
    Span,
    /// Which text belongs to another, by the cosine of their features (softmax over 20 times the cosines with the
    /// texts of the samples that are computed together, cross-entropy: multiple negatives ranking, Henderson et al.
    /// 2017, arXiv 1705.00652). It has no weights of its own. The pair is the text that belongs to the input.
    Ranking,
}

impl HeadKind {
    /// The name in job files and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            HeadKind::SingleLabel => "single_label",
            HeadKind::MultiLabel => "multi_label",
            HeadKind::Regression => "regression",
            HeadKind::Tags => "tags",
            HeadKind::Ordinal => "ordinal",
            HeadKind::LabelEmbedding => "label_embedding",
            HeadKind::CausalLm => "causal_lm",
            HeadKind::Ctc => "ctc",
            HeadKind::Entailment => "entailment",
            HeadKind::Segmentation => "segmentation",
            HeadKind::Span => "span",
            HeadKind::Ranking => "ranking",
        }
    }

    /// The metric used when a task names none.
    #[must_use]
    pub fn default_metric(self) -> Metric {
        match self {
            HeadKind::SingleLabel | HeadKind::LabelEmbedding | HeadKind::Entailment => {
                Metric::Accuracy
            }
            HeadKind::MultiLabel => Metric::MacroF1,
            HeadKind::Regression => Metric::Pearson,
            HeadKind::Tags => Metric::SpanF1,
            HeadKind::Ordinal => Metric::QuadraticKappa,
            HeadKind::CausalLm => Metric::Perplexity,
            HeadKind::Ctc => Metric::Cer,
            HeadKind::Segmentation => Metric::MeanIou,
            HeadKind::Span => Metric::F1,
            HeadKind::Ranking => Metric::Mrr,
        }
    }

    /// Whether it reads the vectors of tokens, not pooled features.
    #[must_use]
    pub fn reads_tokens(self) -> bool {
        matches!(self, HeadKind::Tags | HeadKind::CausalLm | HeadKind::Span)
    }

    /// Whether it reads what the backbone gives place by place, not pooled features.
    #[must_use]
    pub fn reads_rows(self) -> bool {
        self.reads_tokens() || self == HeadKind::Ctc
    }

    /// Whether it reads a map of features, not pooled ones.
    #[must_use]
    pub fn reads_map(self) -> bool {
        self == HeadKind::Segmentation
    }
}

/// A figure of merit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of right predictions (`multi_label`: samples with every label right; `tags`: of words;
    /// `segmentation`: of pixels that have a class).
    Accuracy,
    /// F1 per class, averaged over classes.
    MacroF1,
    /// Mean squared error; lower is better.
    Mse,
    /// Pearson correlation.
    Pearson,
    /// Spearman rank correlation.
    Spearman,
    /// F1 of spans: found where type, first and last word are right (`tags`).
    SpanF1,
    /// Share of samples with every word's tag right (`tags`), or with a right answer (`span`).
    Exact,
    /// Mean distance from the right class, in classes; lower is better (`ordinal`).
    Mae,
    /// Cohen's kappa with squared distances as weights (`ordinal`).
    QuadraticKappa,
    /// Mean over the classes trained on of the share of right predictions among all classes
    /// (`label_embedding`).
    SeenAccuracy,
    /// The same of unseen classes (`label_embedding`).
    UnseenAccuracy,
    /// Harmonic mean of these two: generalised zero-shot learning (Xian et al. 2019, arXiv 1707.00600).
    HarmonicMean,
    /// Mean over unseen classes of the share of right predictions among unseen classes
    /// (`label_embedding`).
    ZeroShotAccuracy,
    /// e to the mean loss per token (`causal_lm`); lower is better.
    Perplexity,
    /// Characters to be inserted, deleted and replaced, by those that should be there (`ctc`); lower is
    /// better.
    Cer,
    /// The same of words, which spaces part (`ctc`); lower is better.
    Wer,
    /// Intersection over union of a class's pixels, there and found, in the mean over the classes that
    /// are there or found (`segmentation`).
    MeanIou,
    /// F1 of an answer's words against the nearest right answer, mean over samples (`span`; Rajpurkar et al.
    /// 2016, arXiv 1606.05250, section 6.1).
    F1,
    /// Mean reciprocal rank: mean over samples of 1 / the place of the text that belongs to them among those of all
    /// samples (`ranking`).
    Mrr,
    /// Share of samples with the text that belongs to them in the first place (`ranking`).
    #[serde(rename = "recall_at_1")]
    RecallAt1,
    /// Share of samples on which every task of an `input_group` is right: all tags, the class, all labels. Reported
    /// where the tasks are evaluated on the same files; it chooses no model.
    JointAccuracy,
}

impl Metric {
    /// Whether a larger value is better.
    #[must_use]
    pub fn higher_is_better(self) -> bool {
        !matches!(
            self,
            Metric::Mse | Metric::Mae | Metric::Perplexity | Metric::Cer | Metric::Wer
        )
    }

    /// The name in job files and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Metric::Accuracy => "accuracy",
            Metric::MacroF1 => "macro_f1",
            Metric::Mse => "mse",
            Metric::Pearson => "pearson",
            Metric::Spearman => "spearman",
            Metric::SpanF1 => "span_f1",
            Metric::Exact => "exact",
            Metric::Mae => "mae",
            Metric::QuadraticKappa => "quadratic_kappa",
            Metric::SeenAccuracy => "seen_accuracy",
            Metric::UnseenAccuracy => "unseen_accuracy",
            Metric::HarmonicMean => "harmonic_mean",
            Metric::ZeroShotAccuracy => "zero_shot_accuracy",
            Metric::Perplexity => "perplexity",
            Metric::Cer => "cer",
            Metric::Wer => "wer",
            Metric::MeanIou => "mean_iou",
            Metric::F1 => "f1",
            Metric::Mrr => "mrr",
            Metric::RecallAt1 => "recall_at_1",
            Metric::JointAccuracy => "joint_accuracy",
        }
    }
}
