//! How a job is trained: length, optimizer, learning rate over time.

use super::{Bad, Wire, at, or_default};
use crate::v1;
use espalier_spec::job::{
    OptimizerMethod, OptimizerSpec, ScheduleKind, ScheduleSpec, TrainingSpec,
};

impl Wire for TrainingSpec {
    type Message = v1::Training;

    fn to_wire(&self) -> v1::Training {
        v1::Training {
            steps: self.steps,
            epochs: self.epochs,
            batch_size: self.batch_size,
            accumulation: self.accumulation,
            optimizer: Some(self.optimizer.to_wire()),
            schedule: Some(self.schedule.to_wire()),
            clip_norm: Some(self.clip_norm),
        }
    }

    fn read(m: v1::Training, bad: &mut Bad, path: &str) -> Self {
        let default = TrainingSpec::default();
        TrainingSpec {
            steps: m.steps,
            epochs: m.epochs,
            batch_size: or_default(m.batch_size, default.batch_size),
            accumulation: or_default(m.accumulation, default.accumulation),
            optimizer: Wire::read(m.optimizer.unwrap_or_default(), bad, &at(path, "optimizer")),
            schedule: Wire::read(m.schedule.unwrap_or_default(), bad, &at(path, "schedule")),
            clip_norm: m.clip_norm.unwrap_or(default.clip_norm),
        }
    }
}

impl Wire for OptimizerSpec {
    type Message = v1::Optimizer;

    fn to_wire(&self) -> v1::Optimizer {
        use v1::optimizer::Method;
        let method = match self.method {
            OptimizerMethod::Adamw => Method::Adamw,
            OptimizerMethod::Sgd => Method::Sgd,
        };
        v1::Optimizer {
            method: method.into(),
            momentum: self.momentum,
            nesterov: self.nesterov,
            learning_rate: Some(self.learning_rate),
            head_learning_rate: self.head_learning_rate,
            beta1: Some(self.betas[0]),
            beta2: Some(self.betas[1]),
            eps: Some(self.eps),
            weight_decay: Some(self.weight_decay),
            block_decay: Some(self.block_decay),
            l2_sp: self.l2_sp,
        }
    }

    fn read(m: v1::Optimizer, bad: &mut Bad, path: &str) -> Self {
        use v1::optimizer::Method;
        let default = OptimizerSpec::default();
        let method = bad.choice(m.method, || at(path, "method"), "adamw or sgd");
        OptimizerSpec {
            method: match method {
                Method::Unspecified => default.method,
                Method::Adamw => OptimizerMethod::Adamw,
                Method::Sgd => OptimizerMethod::Sgd,
            },
            momentum: m.momentum,
            nesterov: m.nesterov,
            learning_rate: m.learning_rate.unwrap_or(default.learning_rate),
            head_learning_rate: m.head_learning_rate,
            betas: [
                m.beta1.unwrap_or(default.betas[0]),
                m.beta2.unwrap_or(default.betas[1]),
            ],
            eps: m.eps.unwrap_or(default.eps),
            weight_decay: m.weight_decay.unwrap_or(default.weight_decay),
            block_decay: m.block_decay.unwrap_or(default.block_decay),
            l2_sp: m.l2_sp,
        }
    }
}

impl Wire for ScheduleSpec {
    type Message = v1::Schedule;

    fn to_wire(&self) -> v1::Schedule {
        use v1::schedule::Kind;
        let kind = match self.kind {
            ScheduleKind::Linear => Kind::Linear,
            ScheduleKind::Cosine => Kind::Cosine,
            ScheduleKind::Constant => Kind::Constant,
            ScheduleKind::Inverse => Kind::Inverse,
        };
        v1::Schedule {
            kind: kind.into(),
            warmup_ratio: Some(self.warmup_ratio),
            final_ratio: Some(self.final_ratio),
            gamma: self.gamma,
            power: self.power,
            warmup_steps: self.warmup_steps,
        }
    }

    fn read(m: v1::Schedule, bad: &mut Bad, path: &str) -> Self {
        use v1::schedule::Kind;
        let default = ScheduleSpec::default();
        let known = "linear, cosine, constant or inverse";
        let kind = bad.choice(m.kind, || at(path, "kind"), known);
        ScheduleSpec {
            kind: match kind {
                Kind::Unspecified => default.kind,
                Kind::Linear => ScheduleKind::Linear,
                Kind::Cosine => ScheduleKind::Cosine,
                Kind::Constant => ScheduleKind::Constant,
                Kind::Inverse => ScheduleKind::Inverse,
            },
            final_ratio: m.final_ratio.unwrap_or(default.final_ratio),
            gamma: m.gamma,
            power: m.power,
            warmup_ratio: m.warmup_ratio.unwrap_or(default.warmup_ratio),
            warmup_steps: m.warmup_steps,
        }
    }
}
