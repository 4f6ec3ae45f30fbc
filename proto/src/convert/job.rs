//! The job spec: everything but its tasks and how it is trained.

use super::{Bad, Violations, Wire, at, item, or_default, text};
use crate::v1;
use espalier_spec::job::{
    AdaptiveBy, AdaptiveSpec, BackboneSpec, BalancerSpec, CheckpointSpec, DEFAULT_NAMESPACE,
    Device, EvaluationSpec, ExchangeSpec, Init, Pooling, RecoverySpec, Resources, Sampler,
    TrainingSpec, Tuning, WorkerRange,
};
use espalier_spec::{JobSpec, Violation, check};

/// `from` and `to` of the sampler `annealed`; a test holds them to the job file's defaults.
const DEFAULT_ANNEALED: [f64; 2] = [1.0, 0.2];
/// `max_tokens` of a backbone that gives none; a test holds it to the job file's default.
const DEFAULT_MAX_TOKENS: u32 = 128;

/// Reads a job as a client sent it and checks its rules. Errors: every violation of both kinds; a
/// field that could not be read is not checked as well.
pub fn checked_job(message: v1::JobSpec) -> Result<JobSpec, Violations> {
    let mut bad = Bad::default();
    let spec = JobSpec::read(message, &mut bad, "");
    let mut violations = bad.0;
    let unread = violations.len();
    let broken = check(&spec).err().unwrap_or_default();
    for violation in broken {
        if !violations[..unread]
            .iter()
            .any(|known| covers(&known.field, &violation))
        {
            violations.push(violation);
        }
    }
    if violations.is_empty() {
        Ok(spec)
    } else {
        Err(Violations(violations))
    }
}

/// Whether `violation` is about `field` or a part of it.
fn covers(field: &str, violation: &Violation) -> bool {
    violation
        .field
        .strip_prefix(field)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

impl Wire for JobSpec {
    type Message = v1::JobSpec;

    fn to_wire(&self) -> v1::JobSpec {
        v1::JobSpec {
            name: self.name.clone(),
            seed: self.seed,
            priority: self.priority,
            backbone: Some(self.backbone.to_wire()),
            tuning: Some(self.tuning.to_wire()),
            tasks: self.tasks.iter().map(Wire::to_wire).collect(),
            sampler: Some(self.sampler.to_wire()),
            training: Some(self.training.to_wire()),
            evaluation: Some(self.evaluation.to_wire()),
            checkpoint: Some(self.checkpoint.to_wire()),
            resources: Some(self.resources.to_wire()),
            output: self.output.clone().unwrap_or_default(),
            balancer: Some(self.balancer.to_wire()),
            exchange: Some(self.exchange.to_wire()),
            recovery: Some(self.recovery.to_wire()),
            namespace: self.namespace.clone(),
        }
    }

    fn read(m: v1::JobSpec, bad: &mut Bad, path: &str) -> Self {
        let part = |field| at(path, field);
        JobSpec {
            name: m.name,
            namespace: text(m.namespace).unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            seed: m.seed,
            priority: m.priority,
            backbone: bad.required(
                m.backbone,
                part("backbone"),
                "give the Hugging Face directory of the shared model as `path`",
            ),
            tuning: Tuning::read(m.tuning.unwrap_or_default(), bad, &part("tuning")),
            tasks: m
                .tasks
                .into_iter()
                .enumerate()
                .map(|(i, task)| Wire::read(task, bad, &item(path, "tasks", i)))
                .collect(),
            sampler: Sampler::read(m.sampler.unwrap_or_default(), bad, &part("sampler")),
            balancer: BalancerSpec::read(m.balancer.unwrap_or_default(), bad, &part("balancer")),
            training: TrainingSpec::read(m.training.unwrap_or_default(), bad, &part("training")),
            exchange: ExchangeSpec::read(m.exchange.unwrap_or_default(), bad, &part("exchange")),
            evaluation: EvaluationSpec::read(
                m.evaluation.unwrap_or_default(),
                bad,
                &part("evaluation"),
            ),
            checkpoint: CheckpointSpec::read(
                m.checkpoint.unwrap_or_default(),
                bad,
                &part("checkpoint"),
            ),
            recovery: RecoverySpec::read(m.recovery.unwrap_or_default(), bad, &part("recovery")),
            resources: Resources::read(m.resources.unwrap_or_default(), bad, &part("resources")),
            output: text(m.output),
        }
    }
}

impl Wire for BackboneSpec {
    type Message = v1::Backbone;

    fn to_wire(&self) -> v1::Backbone {
        use v1::backbone as wire;
        let init = match self.init {
            Init::Pretrained => wire::Init::Pretrained,
            Init::Random => wire::Init::Random,
        };
        let pooling = match self.pooling {
            Pooling::Mean => wire::Pooling::Mean,
            Pooling::Cls => wire::Pooling::Cls,
            Pooling::Max => wire::Pooling::Max,
            Pooling::Last => wire::Pooling::Last,
            Pooling::Pooler => wire::Pooling::Pooler,
        };
        v1::Backbone {
            path: self.path.clone(),
            init: init.into(),
            max_tokens: self.max_tokens,
            pooling: pooling.into(),
            dropout: self.dropout,
            cache_features: Some(self.cache_features),
            extend_vocabulary: self.extend_vocabulary,
        }
    }

    fn read(m: v1::Backbone, bad: &mut Bad, path: &str) -> Self {
        use v1::backbone as wire;
        let init = bad.choice(m.init, || at(path, "init"), "pretrained or random");
        let pooling = bad.choice(
            m.pooling,
            || at(path, "pooling"),
            "mean, cls, max, last or pooler",
        );
        BackboneSpec {
            path: m.path,
            init: match init {
                wire::Init::Unspecified => Init::default(),
                wire::Init::Pretrained => Init::Pretrained,
                wire::Init::Random => Init::Random,
            },
            max_tokens: or_default(m.max_tokens, DEFAULT_MAX_TOKENS),
            pooling: match pooling {
                wire::Pooling::Unspecified => Pooling::default(),
                wire::Pooling::Mean => Pooling::Mean,
                wire::Pooling::Cls => Pooling::Cls,
                wire::Pooling::Max => Pooling::Max,
                wire::Pooling::Last => Pooling::Last,
                wire::Pooling::Pooler => Pooling::Pooler,
            },
            dropout: m.dropout,
            cache_features: m.cache_features.unwrap_or(true),
            extend_vocabulary: m.extend_vocabulary,
        }
    }
}

impl Wire for Sampler {
    type Message = v1::Sampler;

    fn to_wire(&self) -> v1::Sampler {
        use v1::sampler::{Adaptive, Annealed, Capped, Kind, Probabilities, Proportional, Uniform};
        let kind = match self {
            Sampler::Proportional => Kind::Proportional(Proportional {}),
            Sampler::Uniform => Kind::Uniform(Uniform {}),
            Sampler::Temperature(t) => Kind::Temperature(*t),
            Sampler::Capped { cap, temperature } => Kind::Capped(Capped {
                cap: *cap,
                temperature: Some(*temperature),
            }),
            Sampler::Annealed { from, to } => Kind::Annealed(Annealed {
                from: Some(*from),
                to: Some(*to),
            }),
            Sampler::Adaptive(given) => Kind::Adaptive(Adaptive {
                alpha: Some(given.alpha),
                every_steps: Some(given.every_steps),
                smoothing: Some(given.smoothing),
                temperature: Some(given.temperature),
                by: given.by.as_str().to_owned(),
            }),
            Sampler::Probabilities(of) => Kind::Probabilities(Probabilities { of: of.clone() }),
        };
        v1::Sampler { kind: Some(kind) }
    }

    fn read(m: v1::Sampler, bad: &mut Bad, path: &str) -> Self {
        use v1::sampler::Kind;
        match m.kind {
            None => Sampler::default(),
            Some(Kind::Proportional(_)) => Sampler::Proportional,
            Some(Kind::Uniform(_)) => Sampler::Uniform,
            Some(Kind::Temperature(t)) => Sampler::Temperature(t),
            Some(Kind::Capped(capped)) => Sampler::Capped {
                cap: capped.cap,
                temperature: capped.temperature.unwrap_or(1.0),
            },
            Some(Kind::Annealed(annealed)) => Sampler::Annealed {
                from: annealed.from.unwrap_or(DEFAULT_ANNEALED[0]),
                to: annealed.to.unwrap_or(DEFAULT_ANNEALED[1]),
            },
            Some(Kind::Adaptive(given)) => {
                let usual = AdaptiveSpec::default();
                Sampler::Adaptive(AdaptiveSpec {
                    alpha: given.alpha.unwrap_or(usual.alpha),
                    every_steps: given.every_steps.unwrap_or(usual.every_steps),
                    smoothing: given.smoothing.unwrap_or(usual.smoothing),
                    temperature: given.temperature.unwrap_or(usual.temperature),
                    by: match given.by.as_str() {
                        "" | "losses" => AdaptiveBy::Losses,
                        "affinity" => AdaptiveBy::Affinity,
                        other => {
                            let message = format!("is {other:?}, expected losses or affinity");
                            bad.add(at(path, "adaptive.by"), message);
                            AdaptiveBy::Losses
                        }
                    },
                })
            }
            Some(Kind::Probabilities(given)) => Sampler::Probabilities(given.of),
        }
    }
}

impl Wire for CheckpointSpec {
    type Message = v1::CheckpointPolicy;

    fn to_wire(&self) -> v1::CheckpointPolicy {
        v1::CheckpointPolicy {
            every_steps: Some(self.every_steps),
            keep: Some(self.keep),
            upload: self.upload.clone(),
        }
    }

    fn read(m: v1::CheckpointPolicy, _bad: &mut Bad, _path: &str) -> Self {
        let default = CheckpointSpec::default();
        CheckpointSpec {
            every_steps: m.every_steps.unwrap_or(default.every_steps),
            keep: m.keep.unwrap_or(default.keep),
            upload: m.upload,
        }
    }
}

impl Wire for Resources {
    type Message = v1::Resources;

    fn to_wire(&self) -> v1::Resources {
        use v1::resources as wire;
        let device = match self.device {
            Device::Auto => wire::Device::Auto,
            Device::Cpu => wire::Device::Cpu,
            Device::Cuda => wire::Device::Cuda,
        };
        v1::Resources {
            ranks: self.ranks,
            shards: self.shards,
            device: device.into(),
            workers: self.workers.map(|range| v1::WorkerRange {
                min: range.min,
                max: range.max,
            }),
        }
    }

    fn read(m: v1::Resources, bad: &mut Bad, path: &str) -> Self {
        use v1::resources as wire;
        let device = bad.choice(m.device, || at(path, "device"), "auto, cpu or cuda");
        Resources {
            ranks: m.ranks,
            shards: m.shards,
            device: match device {
                wire::Device::Unspecified => Device::default(),
                wire::Device::Auto => Device::Auto,
                wire::Device::Cpu => Device::Cpu,
                wire::Device::Cuda => Device::Cuda,
            },
            workers: m.workers.map(|range| WorkerRange {
                min: range.min,
                max: range.max,
            }),
        }
    }
}

impl Wire for RecoverySpec {
    type Message = v1::RecoveryPolicy;

    fn to_wire(&self) -> v1::RecoveryPolicy {
        v1::RecoveryPolicy {
            snapshot_every: self.snapshot_every,
        }
    }

    fn read(m: v1::RecoveryPolicy, _bad: &mut Bad, _path: &str) -> Self {
        RecoverySpec {
            snapshot_every: m.snapshot_every,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> v1::JobSpec {
        v1::JobSpec {
            name: "a".into(),
            backbone: Some(v1::Backbone {
                path: "model".into(),
                ..Default::default()
            }),
            tasks: vec![v1::Task {
                name: "t".into(),
                head: v1::task::Head::SingleLabel.into(),
                data: Some(v1::Data {
                    train: vec!["t.csv".into()],
                    ..Default::default()
                }),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    // Promise: a field left out on the wire means the same as one left out of the job file.
    #[test]
    fn defaults_are_those_of_the_job_file() {
        let file: JobSpec = serde_json::from_str(
            r#"{"name": "a", "backbone": {"path": "model"},
                "tasks": [{"name": "t", "head": "single_label", "data": {"train": "t.csv"}}]}"#,
        )
        .unwrap();
        assert_eq!(JobSpec::from_wire(minimal()).unwrap(), file);
    }

    // Promise: one answer names every bad field, by its path in the job file.
    #[test]
    fn every_bad_field_is_named() {
        let mut message = minimal();
        message.backbone = None;
        message.tasks.push(v1::Task {
            head: 9,
            metric: "acuracy".into(),
            ..Default::default()
        });
        message.training = Some(v1::Training {
            schedule: Some(v1::Schedule {
                kind: 7,
                ..Default::default()
            }),
            ..Default::default()
        });
        let bad = JobSpec::from_wire(message.clone()).unwrap_err();
        let fields: Vec<_> = bad.0.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "backbone",
                "tasks[1].head",
                "tasks[1].data",
                "tasks[1].metric",
                "training.schedule.kind",
            ]
        );
        let checked = checked_job(message).unwrap_err();
        assert_eq!(checked.0[..bad.0.len()], bad.0);
        let about_backbone = checked.0.iter().filter(|v| v.field.starts_with("backbone"));
        assert_eq!(
            about_backbone.count(),
            1,
            "what is absent is named once: {checked}"
        );
    }
}
