//! Arbitrary specs.

use super::check;
use super::tests::valid;
use crate::JobSpec;
use crate::adaptation::METHODS as ADAPTATIONS;
use crate::balancer::{BalancerSpec, METHODS};
use crate::job::{
    AdaptationSpec, Augment, ClassWeights, Columns, ContrastiveKind, ContrastiveSpec, DataSpec,
    Descriptions, Files, HeadKind, LossSpec, Metric, OnBadSample, OnMissingLabel, OptimizerMethod,
    Sampler, ScheduleKind, SegmentationSpec, Sources, SpanSpec, TargetSpec, TaskAdapterSpec,
    TaskEvaluationSpec, TaskSpec, Tuning, ZeroShotSpec,
};
use proptest::prelude::*;

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(0.0),
        0.0..1.0
    ]
}

fn files() -> impl Strategy<Value = Files> {
    prop_oneof![
        any::<String>().prop_map(Files::One),
        prop::collection::vec("[a-c./]{0,8}(csv)?", 0..4).prop_map(Files::Many),
    ]
}

fn task() -> impl Strategy<Value = TaskSpec> {
    let head = prop_oneof![
        Just(HeadKind::SingleLabel),
        Just(HeadKind::MultiLabel),
        Just(HeadKind::Regression),
        Just(HeadKind::Tags),
        Just(HeadKind::Ordinal),
        Just(HeadKind::LabelEmbedding),
        Just(HeadKind::CausalLm),
        Just(HeadKind::Ctc),
        Just(HeadKind::Entailment),
        Just(HeadKind::Segmentation),
        Just(HeadKind::Span),
        Just(HeadKind::Ranking)
    ];
    let weights = prop_oneof![
        Just(ClassWeights::None),
        Just(ClassWeights::Balanced),
        prop::collection::btree_map("[a-d]{0,2}", number(), 0..4).prop_map(ClassWeights::Given),
    ];
    let metric = prop::option::of(prop_oneof![
        Just(Metric::Accuracy),
        Just(Metric::MacroF1),
        Just(Metric::Mse),
        Just(Metric::Spearman)
    ]);
    let data = (
        files(),
        prop::option::of(files()),
        prop::option::of(files()),
        prop::option::of(".{0,3}"),
        prop::option::of(prop::collection::vec("[a-d]{0,2}", 0..5)),
        prop::option::of(0..3_u64),
    )
        .prop_map(
            |(train, validation, test, column, labels, max_train_samples)| DataSpec {
                train,
                validation,
                test,
                columns: Columns {
                    input: column.clone(),
                    pair: column.clone(),
                    negative: column.clone(),
                    label: column,
                },
                labels,
                max_train_samples,
                join: crate::job::Join::default(),
                samples_per_class: max_train_samples.map(|most| most as u32),
                on_bad_sample: OnBadSample::default(),
                too_long: crate::job::TooLong::default(),
                on_missing_label: OnMissingLabel::default(),
                augment: Augment {
                    crop: max_train_samples.unwrap_or(0) as u32,
                    ..Augment::default()
                },
            },
        );
    (".{0,70}", head, data, number(), (weights, number()), metric).prop_map(
        |(name, head, data, weight, (class_weights, label_smoothing), metric)| TaskSpec {
            adapter: (weight < 0.2).then(TaskAdapterSpec::default),
            adaptation: (weight < 0.5).then(|| AdaptationSpec {
                method: ADAPTATIONS[name.len() % ADAPTATIONS.len()].method,
                target: TargetSpec {
                    train: data.train.clone(),
                },
                weight: Some(weight),
                sources: match name.len() % 2 {
                    0 => Sources::Together,
                    _ => Sources::Apart,
                },
                warm_up: None,
                params: [("hidden".to_owned(), weight)].into(),
            }),
            name,
            head,
            data,
            input_group: (weight > 1.0).then(|| "g".to_owned()),
            weight,
            loss: LossSpec {
                class_weights,
                label_smoothing,
                contrastive: (label_smoothing > 1.0).then_some(ContrastiveSpec {
                    kind: if weight > 1.0 {
                        ContrastiveKind::Cosine
                    } else {
                        ContrastiveKind::SupCon
                    },
                    share: label_smoothing,
                    temperature: weight,
                }),
            },
            zero_shot: (weight < 0.5).then(|| ZeroShotSpec {
                descriptions: Descriptions::File("a".to_owned()),
                templates: vec!["a".to_owned()],
                unseen: vec!["b".to_owned(), "b".to_owned()],
                calibration: Some(weight),
                vectors: (weight < 0.2).then(|| "v".to_owned()),
                negatives: (weight < 0.3).then_some(0),
            }),
            span: (weight > 1.0).then_some(SpanSpec {
                max_answer_tokens: weight as u32,
            }),
            metric,
            evaluation: (weight > 0.5).then_some(TaskEvaluationSpec {
                every_steps: weight as u64,
            }),
            segmentation: (weight > 1.0).then_some(SegmentationSpec { ignore_index: 0 }),
        },
    )
}

proptest! {
    // Whatever a client sends, the check answers: it never panics, its answer is the same twice,
    // and every violation names a field and says something.
    #[test]
    fn any_spec_is_answered(
        name in ".{0,70}",
        tasks in prop::collection::vec(task(), 0..4),
        max_tokens: u32,
        dropout in prop::option::of(number()),
        last_blocks: u32,
        temperature in number(),
        numbers in prop::collection::vec(number(), 8),
        counts in prop::collection::vec(prop_oneof![0..3_u32, any::<u32>()], 8),
        steps in prop::option::of(any::<u64>()),
        output in prop::option::of(".{0,3}"),
        (method, options) in (0..METHODS.len(), prop::collection::vec(number(), 4)),
    ) {
        let mut spec: JobSpec = serde_json::from_value(valid()).expect("right types");
        spec.name = name;
        spec.tasks = tasks;
        spec.backbone.max_tokens = max_tokens;
        spec.backbone.dropout = dropout;
        spec.tuning = Tuning::LastBlocks(last_blocks);
        spec.sampler = Sampler::Temperature(temperature);
        spec.training.steps = steps;
        spec.training.epochs = Some(numbers[0]);
        spec.training.clip_norm = numbers[1];
        spec.training.optimizer.learning_rate = numbers[2];
        spec.training.optimizer.betas = [numbers[3], numbers[4]];
        spec.training.optimizer.eps = numbers[5];
        spec.training.optimizer.weight_decay = numbers[6];
        spec.training.optimizer.block_decay = numbers[7];
        spec.training.optimizer.l2_sp = numbers[0];
        if counts[7] == 0 {
            spec.training.optimizer.method = OptimizerMethod::Sgd;
            spec.training.schedule.kind = ScheduleKind::Inverse;
        }
        spec.training.optimizer.momentum = Some(numbers[1]);
        spec.training.optimizer.nesterov = counts[0] == 0;
        spec.training.schedule.gamma = Some(numbers[2]);
        spec.training.schedule.power = Some(numbers[3]);
        spec.training.schedule.warmup_ratio = numbers[7];
        spec.training.schedule.warmup_steps = steps.map(|steps| steps.wrapping_add(1));
        spec.training.batch_size = counts[0];
        spec.training.accumulation = counts[1];
        spec.evaluation.every_steps = steps.map(|steps| steps % 3);
        spec.evaluation.batch_size = counts[2];
        spec.evaluation.early_stopping_patience = Some(counts[3]);
        spec.checkpoint.keep = counts[4];
        spec.resources.ranks = Some(counts[5]);
        spec.resources.shards = Some(counts[6]);
        spec.output = output;
        spec.balancer = BalancerSpec::of(METHODS[method].method);
        spec.balancer.scale = options[0];
        spec.balancer.smoothing = options[1];
        for (param, value) in METHODS[method].params.iter().zip(&options[2..]) {
            spec.balancer.params.insert(param.name.to_owned(), *value);
        }
        let answer = check(&spec);
        prop_assert_eq!(&answer, &check(&spec));
        if let Err(violations) = answer {
            prop_assert!(!violations.is_empty());
            for violation in violations {
                prop_assert!(!violation.field.is_empty() && !violation.message.is_empty());
            }
        }
    }
}
