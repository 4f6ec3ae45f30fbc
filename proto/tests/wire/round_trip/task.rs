//! Tasks of any kind, as `round_trip` sends them.

use super::{files, number, word};
use espalier_spec::adaptation;
use espalier_spec::job::{
    AdaptationSpec, Augment, ClassWeights, Columns, ContrastiveKind, ContrastiveSpec, DataSpec,
    Descriptions, HeadKind, Join, LossSpec, Metric, OnBadSample, OnMissingLabel, SegmentationSpec,
    Sources, SpanSpec, TargetSpec, TaskAdapterSpec, TaskEvaluationSpec, TaskSpec, TooLong,
    ZeroShotSpec,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn loss() -> impl Strategy<Value = LossSpec> {
    let weights = prop_oneof![
        Just(ClassWeights::None),
        Just(ClassWeights::Balanced),
        btree_map(word(), number(), 1..4).prop_map(ClassWeights::Given),
    ];
    let kind = select(vec![ContrastiveKind::SupCon, ContrastiveKind::Cosine]);
    let contrastive = (kind, number(), number());
    let contrastive = contrastive.prop_map(|(kind, share, temperature)| ContrastiveSpec {
        kind,
        share,
        temperature,
    });
    let contrastive = option::of(contrastive);
    (weights, number(), contrastive).prop_map(|(class_weights, label_smoothing, contrastive)| {
        LossSpec {
            class_weights,
            label_smoothing,
            contrastive,
        }
    })
}

fn metric() -> impl Strategy<Value = Metric> {
    select(vec![
        Metric::Accuracy,
        Metric::MacroF1,
        Metric::Mse,
        Metric::Pearson,
        Metric::Spearman,
        Metric::Mae,
        Metric::QuadraticKappa,
        Metric::HarmonicMean,
        Metric::Perplexity,
        Metric::Cer,
        Metric::Wer,
        Metric::MeanIou,
        Metric::F1,
        Metric::Mrr,
        Metric::RecallAt1,
        Metric::JointAccuracy,
    ])
}

fn zero_shot() -> impl Strategy<Value = ZeroShotSpec> {
    let descriptions = prop_oneof![
        word().prop_map(Descriptions::File),
        btree_map(word(), word(), 1..4).prop_map(Descriptions::Given),
    ];
    let lists = (vec(word(), 0..3), vec(word(), 0..3));
    let numbers = (option::of(number()), option::of(word()));
    (descriptions, lists, numbers).prop_map(
        |(descriptions, (templates, unseen), (calibration, vectors))| ZeroShotSpec {
            descriptions,
            templates,
            unseen,
            calibration,
            negatives: vectors.is_some().then_some(3),
            vectors,
        },
    )
}

pub(super) fn task() -> impl Strategy<Value = TaskSpec> {
    let data = (
        (files(), option::of(files()), option::of(files())),
        (option::of(word()), option::of(word())),
        option::of(vec(word(), 1..4)),
        option::of(any::<u64>()),
        (any::<[u32; 3]>(), any::<[bool; 2]>()),
    )
        .prop_map(
            |((train, validation, test), (input, label), labels, limit, (numbers, flags))| {
                DataSpec {
                    train,
                    validation,
                    test,
                    columns: Columns {
                        pair: flags[1].then(|| "b".to_owned()),
                        negative: flags[0].then(|| "c".to_owned()),
                        input,
                        label,
                    },
                    labels,
                    max_train_samples: limit,
                    join: if flags[1] {
                        Join::EndToken
                    } else {
                        Join::Apart
                    },
                    samples_per_class: flags[0].then_some(numbers[0]),
                    on_bad_sample: if flags[0] {
                        OnBadSample::Skip
                    } else {
                        OnBadSample::Fail
                    },
                    too_long: if flags[1] {
                        TooLong::Error
                    } else {
                        TooLong::Truncate
                    },
                    on_missing_label: if flags[1] {
                        OnMissingLabel::Skip
                    } else {
                        OnMissingLabel::Error
                    },
                    augment: Augment {
                        crop: numbers[0],
                        flip: flags[1],
                        time_mask: numbers[1],
                        frequency_mask: numbers[2],
                    },
                }
            },
        );
    let head = select(vec![
        HeadKind::SingleLabel,
        HeadKind::MultiLabel,
        HeadKind::Regression,
        HeadKind::Tags,
        HeadKind::Ordinal,
        HeadKind::LabelEmbedding,
        HeadKind::CausalLm,
        HeadKind::Ctc,
        HeadKind::Entailment,
        HeadKind::Segmentation,
        HeadKind::Span,
        HeadKind::Ranking,
    ]);
    let more = (
        (loss(), option::of(adaptation())),
        option::of(metric()),
        (option::of(zero_shot()), option::of(any::<u32>())),
    );
    (word(), head, data, number(), more).prop_map(
        |(name, head, data, weight, ((loss, adaptation), metric, (zero_shot, most)))| TaskSpec {
            name,
            head,
            data,
            input_group: (weight > 1.0).then(|| "g".to_owned()),
            weight,
            loss,
            zero_shot,
            span: most.map(|max_answer_tokens| SpanSpec { max_answer_tokens }),
            metric,
            evaluation: (weight > 0.5).then_some(TaskEvaluationSpec { every_steps: 6 }),
            adaptation,
            adapter: (weight < 0.5).then_some(TaskAdapterSpec { size: 9 }),
            segmentation: (weight > 1.0).then_some(SegmentationSpec { ignore_index: 7 }),
        },
    )
}

fn adaptation() -> impl Strategy<Value = AdaptationSpec> {
    let methods: Vec<_> = adaptation::METHODS.iter().map(|info| info.method).collect();
    let numbers = (option::of(number()), option::of(any::<u64>()));
    let sources = select(vec![Sources::Together, Sources::Apart]);
    let params = btree_map(word(), number(), 0..3);
    (select(methods), (files(), sources), numbers, params).prop_map(
        |(method, (train, sources), (weight, warm_up), params)| AdaptationSpec {
            method,
            target: TargetSpec { train },
            sources,
            weight,
            warm_up,
            params,
        },
    )
}
