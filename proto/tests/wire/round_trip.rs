//! Promise: what is asked for and planned survives the wire unchanged, bytes included.

mod strategy;
mod task;

use espalier_proto::Wire;
use espalier_proto::convert::{plan_from_wire, plan_to_wire};
use espalier_spec::balancer::METHODS;
use espalier_spec::job::{
    Affinity, BackboneSpec, BalancerSpec, CheckpointSpec, Device, EvaluationSpec, ExchangeSpec,
    ExchangeType, Files, Init, Normalize, OnNonFinite, OptimizerMethod, OptimizerSpec, Pooling,
    RecoverySpec, Resources, ScheduleKind, ScheduleSpec, SelectBy, Sharding, SyncKind,
    TrainingSpec, WorkerRange,
};
use espalier_spec::plan::{
    BlockPlacement, BlockProfile, ExchangePlan, Profile, Seat, SyncPath, TaskPlacement, TaskProfile,
};
use espalier_spec::{Generation, JobId, JobSpec, Plan, Rank, Shard, WorkerId};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

// Message types name each other's defaults by absence, so text is never empty here.
fn word() -> impl Strategy<Value = String> {
    "[a-zé/._-]{1,12}"
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        -1e9..1e9f64,
        select(vec![0.0, -0.0, 5e-5, f64::INFINITY, f64::MIN_POSITIVE])
    ]
}

fn files() -> impl Strategy<Value = Files> {
    prop_oneof![
        word().prop_map(Files::One),
        vec(word(), 2..4).prop_map(Files::Many)
    ]
}

fn backbone() -> impl Strategy<Value = BackboneSpec> {
    (
        word(),
        select(vec![Init::Pretrained, Init::Random]),
        1u32..,
        select(vec![
            Pooling::Mean,
            Pooling::Cls,
            Pooling::Max,
            Pooling::Last,
            Pooling::Pooler,
        ]),
        option::of(number()),
    )
        .prop_map(|(path, init, max_tokens, pooling, dropout)| BackboneSpec {
            path,
            init,
            max_tokens,
            pooling,
            dropout,
            cache_features: max_tokens.is_multiple_of(2),
            extend_vocabulary: max_tokens.is_multiple_of(3),
        })
}

fn training() -> impl Strategy<Value = TrainingSpec> {
    let methods = select(vec![OptimizerMethod::Adamw, OptimizerMethod::Sgd]);
    let optimizer = (
        number(),
        option::of(number()),
        [number(), number()],
        number(),
        number(),
        (number(), number()),
        (methods, option::of(number()), any::<bool>()),
    )
        .prop_map(
            |(
                learning_rate,
                head_learning_rate,
                betas,
                eps,
                weight_decay,
                (block_decay, l2_sp),
                (method, momentum, nesterov),
            )| OptimizerSpec {
                method,
                learning_rate,
                head_learning_rate,
                betas,
                eps,
                momentum,
                nesterov,
                weight_decay,
                block_decay,
                l2_sp,
            },
        );
    let kinds = vec![
        ScheduleKind::Linear,
        ScheduleKind::Cosine,
        ScheduleKind::Constant,
        ScheduleKind::Inverse,
    ];
    let fall = (option::of(number()), option::of(number()));
    let schedule = (select(kinds), fall, number(), option::of(any::<u64>())).prop_map(
        |(kind, (gamma, power), warmup_ratio, warmup_steps)| ScheduleSpec {
            kind,
            final_ratio: warmup_ratio / 2.0,
            gamma,
            power,
            warmup_ratio,
            warmup_steps,
        },
    );
    let length = (option::of(any::<u64>()), option::of(number()));
    (length, 1u32.., 1u32.., optimizer, schedule, number()).prop_map(
        |((steps, epochs), batch_size, accumulation, optimizer, schedule, clip_norm)| {
            TrainingSpec {
                steps,
                epochs,
                batch_size,
                accumulation,
                optimizer,
                schedule,
                clip_norm,
            }
        },
    )
}

fn balancer() -> impl Strategy<Value = BalancerSpec> {
    let normalize = select(vec![
        Normalize::None,
        Normalize::L2,
        Normalize::Loss,
        Normalize::LossL2,
    ]);
    let non_finite = select(vec![OnNonFinite::Fail, OnNonFinite::SkipTaskStep]);
    (
        (
            0..METHODS.len(),
            btree_map(word(), number(), 0..3),
            normalize,
            non_finite,
        ),
        (number(), number(), 1u64..),
        (any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |(
                (method, params, normalize, on_non_finite),
                (scale, smoothing, update_every),
                (log_losses, balance_heads),
            )| BalancerSpec {
                method: METHODS[method].method,
                params,
                scale,
                log_losses,
                normalize,
                smoothing,
                update_every,
                balance_heads,
                on_non_finite,
            },
        )
}

fn exchange() -> impl Strategy<Value = ExchangeSpec> {
    (
        select(vec![
            SyncKind::Auto,
            SyncKind::OwnerCombine,
            SyncKind::AllReduce,
        ]),
        select(vec![Sharding::None, Sharding::Optimizer, Sharding::Full]),
        select(vec![ExchangeType::F32, ExchangeType::Bf16]),
        any::<bool>(),
        select(vec![Affinity::Auto, Affinity::On, Affinity::Off]),
    )
        .prop_map(
            |(sync, sharding, dtype, recompute, affinity)| ExchangeSpec {
                sync,
                sharding,
                dtype,
                recompute,
                affinity,
            },
        )
}

fn job() -> impl Strategy<Value = JobSpec> {
    let (tuning, sampler) = (strategy::tuning(), strategy::sampler());
    let evaluation = (
        option::of(any::<u64>()),
        1u32..,
        any::<bool>(),
        option::of(any::<u32>()),
        select(vec![
            SelectBy::Metric,
            SelectBy::Entropy,
            SelectBy::InformationMaximisation,
            SelectBy::SoftNeighbourhoodDensity,
        ]),
    )
        .prop_map(
            |(every_steps, batch_size, select_best, patience, select_by)| EvaluationSpec {
                every_steps,
                batch_size,
                select_best,
                select_by,
                early_stopping_patience: patience,
            },
        );
    let upload = option::of(".{0,9}");
    let checkpoint =
        (any::<u64>(), any::<u32>(), upload).prop_map(|(every_steps, keep, upload)| {
            CheckpointSpec {
                every_steps,
                keep,
                upload,
            }
        });
    let device = select(vec![Device::Auto, Device::Cpu, Device::Cuda]);
    let workers =
        option::of((any::<u32>(), any::<u32>()).prop_map(|(min, max)| WorkerRange { min, max }));
    let counts = (option::of(any::<u32>()), option::of(any::<u32>()));
    let resources =
        (counts, device, workers).prop_map(|((ranks, shards), device, workers)| Resources {
            ranks,
            shards,
            device,
            workers,
        });
    let recovery =
        option::of(any::<u64>()).prop_map(|snapshot_every| RecoverySpec { snapshot_every });
    (
        (word(), any::<u64>(), any::<i32>(), backbone(), tuning),
        (
            vec(task::task(), 0..3),
            sampler,
            balancer(),
            training(),
            exchange(),
        ),
        (
            evaluation,
            checkpoint,
            (resources, recovery),
            option::of(word()),
        ),
    )
        .prop_map(
            |(
                (name, seed, priority, backbone, tuning),
                (tasks, sampler, balancer, training, exchange),
                (evaluation, checkpoint, (resources, recovery), output),
            )| JobSpec {
                namespace: format!("{name}-team"),
                name,
                seed,
                priority,
                backbone,
                tuning,
                tasks,
                sampler,
                balancer,
                training,
                exchange,
                evaluation,
                checkpoint,
                recovery,
                resources,
                output,
            },
        )
}

fn plan() -> impl Strategy<Value = Plan> {
    let seats = vec(
        (
            word(),
            any::<u32>(),
            vec(any::<u32>().prop_map(Shard), 0..3),
        ),
        1..4,
    );
    seats.prop_flat_map(|seats| {
        let world = seats.len();
        let task = (word(), vec((any::<u32>().prop_map(Shard), number()), 1..4)).prop_map(
            |(task, shards)| {
                let (shards, load) = shards.into_iter().unzip();
                TaskPlacement { task, shards, load }
            },
        );
        let ends = prop_oneof![Just(Vec::new()), vec(any::<u64>(), world)];
        let block = (word(), ends).prop_map(|(block, mut ends)| {
            ends.sort_unstable();
            BlockPlacement { block, ends }
        });
        (
            any::<u64>(),
            vec(task, 0..3),
            vec(block, 0..3),
            exchange_plan(),
            vec(word(), 0..3),
        )
            .prop_map(move |(generation, tasks, blocks, exchange, reasons)| Plan {
                job: JobId::from("job"),
                generation: Generation(generation),
                seats: (0u32..)
                    .zip(&seats)
                    .map(|(rank, (worker, device, _))| Seat {
                        rank: Rank(rank),
                        worker: WorkerId(worker.clone()),
                        device: *device,
                    })
                    .collect(),
                shards: seats.iter().map(|(_, _, shards)| shards.clone()).collect(),
                tasks,
                blocks,
                exchange,
                reasons,
            })
    })
}

fn exchange_plan() -> impl Strategy<Value = ExchangePlan> {
    (
        select(vec![SyncPath::OwnerCombine, SyncPath::AllReduce]),
        select(vec![Sharding::None, Sharding::Optimizer, Sharding::Full]),
        any::<bool>(),
        select(vec![ExchangeType::F32, ExchangeType::Bf16]),
    )
        .prop_map(|(sync, sharding, apart, dtype)| ExchangePlan {
            sync,
            sharding,
            apart,
            dtype,
        })
}

fn profile() -> impl Strategy<Value = Profile> {
    let block = (word(), any::<u64>(), any::<u64>()).prop_map(|(name, a, b)| BlockProfile {
        name,
        trainable: a.min(b),
        total: a.max(b),
    });
    let task = (word(), any::<u64>(), 0.0..1.0f64, 0.0..1e6f64).prop_map(
        |(name, train_samples, share, sample_cost)| TaskProfile {
            name,
            train_samples,
            share,
            sample_cost,
        },
    );
    (vec(block, 0..3), vec(task, 0..3), word()).prop_map(|(blocks, tasks, fetched)| Profile {
        blocks,
        tasks,
        fetched,
    })
}

fn returns<T>(value: T) -> Result<(), TestCaseError>
where
    T: Wire + PartialEq + std::fmt::Debug,
{
    prop_assert_eq!(T::from_wire(value.to_wire()), Ok(value));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn job_specs_return(job in job()) { returns(job)?; }

    #[test]
    fn profiles_return(profile in profile()) { returns(profile)?; }

    #[test]
    fn plans_return(plan in plan()) {
        let job = plan.job.clone();
        prop_assert_eq!(plan_from_wire(&job, plan_to_wire(&plan)), Ok(plan));
    }
}
