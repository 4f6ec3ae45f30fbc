//! Tasks: head, data and loss.

use super::{Bad, Wire, at, text};
use crate::v1;
use espalier_spec::job::{
    AdaptationSpec, Augment, ClassWeights, Columns, ContrastiveKind, ContrastiveSpec, DataSpec,
    Descriptions, Files, HeadKind, Join, LossSpec, Metric, OnBadSample, OnMissingLabel,
    SegmentationSpec, SpanSpec, TaskAdapterSpec, TaskEvaluationSpec, TaskSpec, TooLong,
    ZeroShotSpec,
};
use std::collections::BTreeMap;

/// `weight` of a task that gives none; a test holds it to the job file's default.
const DEFAULT_WEIGHT: f64 = 1.0;

const METRICS: [Metric; 21] = [
    Metric::Accuracy,
    Metric::MacroF1,
    Metric::Mse,
    Metric::Pearson,
    Metric::Spearman,
    Metric::SpanF1,
    Metric::Exact,
    Metric::Mae,
    Metric::QuadraticKappa,
    Metric::SeenAccuracy,
    Metric::UnseenAccuracy,
    Metric::HarmonicMean,
    Metric::ZeroShotAccuracy,
    Metric::Perplexity,
    Metric::Cer,
    Metric::Wer,
    Metric::MeanIou,
    Metric::F1,
    Metric::Mrr,
    Metric::RecallAt1,
    Metric::JointAccuracy,
];

/// The metric of this name.
pub(super) fn metric(name: &str) -> Option<Metric> {
    METRICS.into_iter().find(|metric| metric.as_str() == name)
}

/// What to say about a metric that does not exist.
pub(super) fn unknown_metric(name: &str) -> String {
    let known: Vec<_> = METRICS.iter().map(|metric| metric.as_str()).collect();
    format!(
        "`{name}` is no known metric, expected one of {}",
        known.join(", ")
    )
}

impl Wire for TaskSpec {
    type Message = v1::Task;

    fn to_wire(&self) -> v1::Task {
        use v1::task::Head;
        let head = match self.head {
            HeadKind::SingleLabel => Head::SingleLabel,
            HeadKind::MultiLabel => Head::MultiLabel,
            HeadKind::Regression => Head::Regression,
            HeadKind::Tags => Head::Tags,
            HeadKind::Ordinal => Head::Ordinal,
            HeadKind::LabelEmbedding => Head::LabelEmbedding,
            HeadKind::CausalLm => Head::CausalLm,
            HeadKind::Ctc => Head::Ctc,
            HeadKind::Entailment => Head::Entailment,
            HeadKind::Segmentation => Head::Segmentation,
            HeadKind::Span => Head::Span,
            HeadKind::Ranking => Head::Ranking,
        };
        v1::Task {
            name: self.name.clone(),
            head: head.into(),
            data: Some(self.data.to_wire()),
            input_group: self.input_group.clone().unwrap_or_default(),
            weight: Some(self.weight),
            loss: Some(self.loss.to_wire()),
            zero_shot: self.zero_shot.as_ref().map(Wire::to_wire),
            span: self.span.map(|span| v1::Span {
                max_answer_tokens: Some(span.max_answer_tokens),
            }),
            metric: self
                .metric
                .map(|metric| metric.as_str().to_owned())
                .unwrap_or_default(),
            evaluation: self.evaluation.map(|own| v1::TaskEvaluation {
                every_steps: own.every_steps,
            }),
            adaptation: self.adaptation.as_ref().map(Wire::to_wire),
            adapter: self.adapter.map(|own| v1::TaskAdapter {
                size: Some(own.size),
            }),
            segmentation: self.segmentation.as_ref().map(Wire::to_wire),
        }
    }

    fn read(m: v1::Task, bad: &mut Bad, path: &str) -> Self {
        use v1::task::Head;
        const HEADS: &str = "single_label, multi_label, regression, tags, ordinal, label_embedding, \
                             entailment, causal_lm, span, ranking, ctc or segmentation";
        let head = match bad.choice(m.head, || at(path, "head"), HEADS) {
            Head::SingleLabel => HeadKind::SingleLabel,
            Head::MultiLabel => HeadKind::MultiLabel,
            Head::Regression => HeadKind::Regression,
            Head::Tags => HeadKind::Tags,
            Head::Ordinal => HeadKind::Ordinal,
            Head::LabelEmbedding => HeadKind::LabelEmbedding,
            Head::CausalLm => HeadKind::CausalLm,
            Head::Ctc => HeadKind::Ctc,
            Head::Entailment => HeadKind::Entailment,
            Head::Segmentation => HeadKind::Segmentation,
            Head::Span => HeadKind::Span,
            Head::Ranking => HeadKind::Ranking,
            Head::Unspecified => {
                if m.head == 0 {
                    bad.add(at(path, "head"), format!("is required: {HEADS}"));
                }
                HeadKind::SingleLabel
            }
        };
        let data = bad.required(
            m.data,
            at(path, "data"),
            "give the training files as `train`",
        );
        let loss = LossSpec::read(m.loss.unwrap_or_default(), bad, &at(path, "loss"));
        let metric = text(m.metric).and_then(|name| {
            let found = metric(&name);
            if found.is_none() {
                bad.add(at(path, "metric"), unknown_metric(&name));
            }
            found
        });
        let adaptation = m
            .adaptation
            .map(|m| AdaptationSpec::read(m, bad, &at(path, "adaptation")));
        TaskSpec {
            name: m.name,
            head,
            data,
            input_group: text(m.input_group),
            weight: m.weight.unwrap_or(DEFAULT_WEIGHT),
            loss,
            zero_shot: m
                .zero_shot
                .map(|m| ZeroShotSpec::read(m, bad, &at(path, "zero_shot"))),
            span: m.span.map(|span| SpanSpec {
                max_answer_tokens: span
                    .max_answer_tokens
                    .unwrap_or(SpanSpec::default().max_answer_tokens),
            }),
            metric,
            evaluation: m.evaluation.map(|m| TaskEvaluationSpec {
                every_steps: m.every_steps,
            }),
            adaptation,
            adapter: m.adapter.map(|m| TaskAdapterSpec {
                size: m.size.unwrap_or(TaskAdapterSpec::default().size),
            }),
            segmentation: m
                .segmentation
                .map(|m| SegmentationSpec::read(m, bad, &at(path, "segmentation"))),
        }
    }
}

impl Wire for DataSpec {
    type Message = v1::Data;

    fn to_wire(&self) -> v1::Data {
        let list = |files: &Option<Files>| {
            files
                .as_ref()
                .map(|files| files.paths().to_vec())
                .unwrap_or_default()
        };
        v1::Data {
            train: self.train.paths().to_vec(),
            validation: list(&self.validation),
            test: list(&self.test),
            input_column: self.columns.input.clone().unwrap_or_default(),
            samples_per_class: self.samples_per_class,
            pair_column: self.columns.pair.clone().unwrap_or_default(),
            negative_column: self.columns.negative.clone().unwrap_or_default(),
            label_column: self.columns.label.clone().unwrap_or_default(),
            labels: self.labels.clone().unwrap_or_default(),
            max_train_samples: self.max_train_samples,
            join: match self.join {
                Join::Nothing => v1::data::Join::Nothing,
                Join::EndToken => v1::data::Join::EndToken,
                Join::Apart => v1::data::Join::Apart,
            }
            .into(),
            on_bad_sample: match self.on_bad_sample {
                OnBadSample::Fail => v1::data::OnBadSample::Fail,
                OnBadSample::Skip => v1::data::OnBadSample::Skip,
            }
            .into(),
            too_long: match self.too_long {
                TooLong::Truncate => v1::data::TooLong::Truncate,
                TooLong::Error => v1::data::TooLong::Error,
            }
            .into(),
            augment: Some(self.augment.to_wire()),
            skip_missing_labels: self.on_missing_label == OnMissingLabel::Skip,
        }
    }

    fn read(m: v1::Data, bad: &mut Bad, path: &str) -> Self {
        use v1::data::OnBadSample as Policy;
        let policy = bad.choice(
            m.on_bad_sample,
            || at(path, "on_bad_sample"),
            "fail or skip",
        );
        let too_long = bad.choice(m.too_long, || at(path, "too_long"), "truncate or error");
        let join = bad.choice(m.join, || at(path, "join"), "nothing, end_token or apart");
        let some = |paths: Vec<String>| (!paths.is_empty()).then(|| files(paths));
        DataSpec {
            train: files(m.train),
            validation: some(m.validation),
            test: some(m.test),
            columns: Columns {
                input: text(m.input_column),
                pair: text(m.pair_column),
                negative: text(m.negative_column),
                label: text(m.label_column),
            },
            labels: (!m.labels.is_empty()).then_some(m.labels),
            max_train_samples: m.max_train_samples,
            samples_per_class: m.samples_per_class,
            join: match join {
                v1::data::Join::Unspecified | v1::data::Join::Nothing => Join::Nothing,
                v1::data::Join::EndToken => Join::EndToken,
                v1::data::Join::Apart => Join::Apart,
            },
            on_bad_sample: match policy {
                Policy::Unspecified | Policy::Fail => OnBadSample::Fail,
                Policy::Skip => OnBadSample::Skip,
            },
            too_long: match too_long {
                v1::data::TooLong::Unspecified | v1::data::TooLong::Truncate => TooLong::Truncate,
                v1::data::TooLong::Error => TooLong::Error,
            },
            on_missing_label: match m.skip_missing_labels {
                true => OnMissingLabel::Skip,
                false => OnMissingLabel::Error,
            },
            augment: Augment::read(m.augment.unwrap_or_default(), bad, &at(path, "augment")),
        }
    }
}

impl Wire for Augment {
    type Message = v1::Augment;

    fn to_wire(&self) -> v1::Augment {
        v1::Augment {
            crop: self.crop,
            flip: self.flip,
            time_mask: self.time_mask,
            frequency_mask: self.frequency_mask,
        }
    }

    fn read(m: v1::Augment, _bad: &mut Bad, _path: &str) -> Self {
        Augment {
            crop: m.crop,
            flip: m.flip,
            time_mask: m.time_mask,
            frequency_mask: m.frequency_mask,
        }
    }
}

impl Wire for ZeroShotSpec {
    type Message = v1::ZeroShot;

    fn to_wire(&self) -> v1::ZeroShot {
        let (file, given) = match &self.descriptions {
            Descriptions::File(file) => (file.clone(), BTreeMap::new()),
            Descriptions::Given(given) => (String::new(), given.clone()),
        };
        v1::ZeroShot {
            descriptions: given,
            descriptions_file: file,
            templates: self.templates.clone(),
            unseen: self.unseen.clone(),
            calibration: self.calibration,
            vectors: self.vectors.clone().unwrap_or_default(),
            negatives: self.negatives,
        }
    }

    fn read(m: v1::ZeroShot, bad: &mut Bad, path: &str) -> Self {
        let file = text(m.descriptions_file);
        if file.is_some() && !m.descriptions.is_empty() {
            bad.add(
                at(path, "descriptions"),
                "texts and a file exclude each other, choose one",
            );
        }
        ZeroShotSpec {
            descriptions: match file {
                Some(file) => Descriptions::File(file),
                None => Descriptions::Given(m.descriptions),
            },
            templates: m.templates,
            unseen: m.unseen,
            calibration: m.calibration,
            vectors: text(m.vectors),
            negatives: m.negatives,
        }
    }
}

impl Wire for SegmentationSpec {
    type Message = v1::Segmentation;

    fn to_wire(&self) -> v1::Segmentation {
        v1::Segmentation {
            ignore_index: Some(self.ignore_index.into()),
        }
    }

    fn read(m: v1::Segmentation, bad: &mut Bad, path: &str) -> Self {
        let default = SegmentationSpec::default().ignore_index;
        let ignore_index = m.ignore_index.map_or(Ok(default), u8::try_from);
        if ignore_index.is_err() {
            bad.add(
                at(path, "ignore_index"),
                "is above 255, the largest value of a mask",
            );
        }
        SegmentationSpec {
            ignore_index: ignore_index.unwrap_or(default),
        }
    }
}

/// One path is `One`, so that a job comes back as most people write it.
pub(super) fn files(mut paths: Vec<String>) -> Files {
    match paths.pop() {
        Some(only) if paths.is_empty() => Files::One(only),
        Some(last) => {
            paths.push(last);
            Files::Many(paths)
        }
        None => Files::Many(paths),
    }
}

impl Wire for LossSpec {
    type Message = v1::Loss;

    fn to_wire(&self) -> v1::Loss {
        v1::Loss {
            balanced_class_weights: self.class_weights == ClassWeights::Balanced,
            class_weights: match &self.class_weights {
                ClassWeights::Given(weights) => weights.clone(),
                ClassWeights::None | ClassWeights::Balanced => Default::default(),
            },
            label_smoothing: self.label_smoothing,
            contrastive: self.contrastive.map(|spec| v1::loss::Contrastive {
                kind: match spec.kind {
                    ContrastiveKind::SupCon => v1::loss::contrastive::Kind::SupCon,
                    ContrastiveKind::Cosine => v1::loss::contrastive::Kind::Cosine,
                }
                .into(),
                share: Some(spec.share),
                temperature: Some(spec.temperature),
            }),
        }
    }

    fn read(m: v1::Loss, bad: &mut Bad, path: &str) -> Self {
        let given = !m.class_weights.is_empty();
        if m.balanced_class_weights && given {
            bad.add(
                at(path, "class_weights"),
                "balanced and given weights exclude each other, choose one",
            );
        }
        LossSpec {
            class_weights: if given {
                ClassWeights::Given(m.class_weights)
            } else if m.balanced_class_weights {
                ClassWeights::Balanced
            } else {
                ClassWeights::None
            },
            label_smoothing: m.label_smoothing,
            contrastive: m.contrastive.map(|spec| {
                let default = ContrastiveSpec::default();
                use v1::loss::contrastive::Kind;
                let place = || at(&at(path, "contrastive"), "kind");
                ContrastiveSpec {
                    kind: match bad.choice(spec.kind, place, "sup_con or cosine") {
                        Kind::Unspecified | Kind::SupCon => ContrastiveKind::SupCon,
                        Kind::Cosine => ContrastiveKind::Cosine,
                    },
                    share: spec.share.unwrap_or(default.share),
                    temperature: spec.temperature.unwrap_or(default.temperature),
                }
            }),
        }
    }
}
