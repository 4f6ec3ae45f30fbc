//! The balancer and the exchange.

use super::{Bad, Wire, at};
use crate::v1;
use espalier_spec::balancer::METHODS;
use espalier_spec::check::nearest;
use espalier_spec::job::{
    Affinity, BalancerSpec, ExchangeSpec, ExchangeType, Method, Normalize, OnNonFinite, Sharding,
    SyncKind,
};

impl Wire for BalancerSpec {
    type Message = v1::Balancer;

    fn to_wire(&self) -> v1::Balancer {
        use v1::balancer as wire;
        let normalize = match self.normalize {
            Normalize::None => wire::Normalize::None,
            Normalize::L2 => wire::Normalize::L2,
            Normalize::Loss => wire::Normalize::Loss,
            Normalize::LossL2 => wire::Normalize::LossL2,
        };
        let on_non_finite = match self.on_non_finite {
            OnNonFinite::Fail => wire::OnNonFinite::Fail,
            OnNonFinite::SkipTaskStep => wire::OnNonFinite::SkipTaskStep,
        };
        v1::Balancer {
            method: self.method.as_str().to_owned(),
            params: self.params.clone().into_iter().collect(),
            scale: Some(self.scale),
            log_losses: self.log_losses,
            normalize: normalize.into(),
            smoothing: self.smoothing,
            update_every: self.update_every,
            balance_heads: self.balance_heads,
            on_non_finite: on_non_finite.into(),
        }
    }

    fn read(m: v1::Balancer, bad: &mut Bad, path: &str) -> Self {
        use v1::balancer as wire;
        let default = BalancerSpec::default();
        let normalize = bad.choice(
            m.normalize,
            || at(path, "normalize"),
            "none, l2, loss or loss_l2",
        );
        let on_non_finite = bad.choice(
            m.on_non_finite,
            || at(path, "on_non_finite"),
            "fail or skip_task_step",
        );
        BalancerSpec {
            method: method(&m.method, bad, path),
            params: m.params.into_iter().collect(),
            scale: m.scale.unwrap_or(default.scale),
            log_losses: m.log_losses,
            normalize: match normalize {
                wire::Normalize::Unspecified => default.normalize,
                wire::Normalize::None => Normalize::None,
                wire::Normalize::L2 => Normalize::L2,
                wire::Normalize::Loss => Normalize::Loss,
                wire::Normalize::LossL2 => Normalize::LossL2,
            },
            smoothing: m.smoothing,
            // As with all counts, 0 means the default.
            update_every: m.update_every.max(default.update_every),
            balance_heads: m.balance_heads,
            on_non_finite: match on_non_finite {
                wire::OnNonFinite::Unspecified => default.on_non_finite,
                wire::OnNonFinite::Fail => OnNonFinite::Fail,
                wire::OnNonFinite::SkipTaskStep => OnNonFinite::SkipTaskStep,
            },
        }
    }
}

/// The method of a name; empty means the default.
fn method(name: &str, bad: &mut Bad, path: &str) -> Method {
    if name.is_empty() {
        return Method::default();
    }
    Method::of_name(name).unwrap_or_else(|| {
        let names = || METHODS.iter().map(|info| info.name);
        let advice = match nearest(name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("expected one of {}", names().collect::<Vec<_>>().join(", ")),
        };
        bad.add(
            at(path, "method"),
            format!("{name:?} is no known method; {advice}"),
        );
        Method::default()
    })
}

impl Wire for ExchangeSpec {
    type Message = v1::Exchange;

    fn to_wire(&self) -> v1::Exchange {
        use v1::exchange as wire;
        let sync = match self.sync {
            SyncKind::Auto => wire::Sync::Auto,
            SyncKind::OwnerCombine => wire::Sync::OwnerCombine,
            SyncKind::AllReduce => wire::Sync::AllReduce,
        };
        let sharding = match self.sharding {
            Sharding::None => wire::Sharding::None,
            Sharding::Optimizer => wire::Sharding::Optimizer,
            Sharding::Full => wire::Sharding::Full,
        };
        let dtype = match self.dtype {
            ExchangeType::F32 => wire::DType::F32,
            ExchangeType::Bf16 => wire::DType::Bf16,
        };
        let affinity = match self.affinity {
            Affinity::Auto => wire::Affinity::Auto,
            Affinity::On => wire::Affinity::On,
            Affinity::Off => wire::Affinity::Off,
        };
        v1::Exchange {
            sync: sync.into(),
            sharding: sharding.into(),
            dtype: dtype.into(),
            recompute: self.recompute,
            affinity: affinity.into(),
        }
    }

    fn read(m: v1::Exchange, bad: &mut Bad, path: &str) -> Self {
        use v1::exchange as wire;
        let sync = bad.choice(
            m.sync,
            || at(path, "sync"),
            "auto, owner_combine or all_reduce",
        );
        let sharding = bad.choice(
            m.sharding,
            || at(path, "sharding"),
            "none, optimizer or full",
        );
        let dtype = bad.choice(m.dtype, || at(path, "dtype"), "f32 or bf16");
        let affinity = bad.choice(m.affinity, || at(path, "affinity"), "auto, on or off");
        ExchangeSpec {
            sync: match sync {
                wire::Sync::Unspecified => SyncKind::default(),
                wire::Sync::Auto => SyncKind::Auto,
                wire::Sync::OwnerCombine => SyncKind::OwnerCombine,
                wire::Sync::AllReduce => SyncKind::AllReduce,
            },
            sharding: match sharding {
                wire::Sharding::Unspecified => Sharding::default(),
                wire::Sharding::None => Sharding::None,
                wire::Sharding::Optimizer => Sharding::Optimizer,
                wire::Sharding::Full => Sharding::Full,
            },
            dtype: match dtype {
                wire::DType::Unspecified => ExchangeType::default(),
                wire::DType::F32 => ExchangeType::F32,
                wire::DType::Bf16 => ExchangeType::Bf16,
            },
            recompute: m.recompute,
            affinity: match affinity {
                wire::Affinity::Unspecified => Affinity::default(),
                wire::Affinity::Auto => Affinity::Auto,
                wire::Affinity::On => Affinity::On,
                wire::Affinity::Off => Affinity::Off,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: a slip in a method's name is answered with the name that was meant.
    #[test]
    fn an_unknown_method_gets_a_suggestion() {
        let message = v1::Balancer {
            method: "upgrd".into(),
            normalize: 9,
            ..Default::default()
        };
        let bad = BalancerSpec::from_wire(message).unwrap_err();
        let fields: Vec<_> = bad.0.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["normalize", "method"]);
        assert!(bad.0[1].message.contains("did you mean `upgrad`?"));
    }
}
