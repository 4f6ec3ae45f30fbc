//! Tunings and samplers of any kind, as `round_trip` sends them.

use super::{number, word};
use espalier_spec::job::{
    AdapterKind, AdapterSpec, AdaptiveBy, AdaptiveSpec, GradualSpec, LoraSpec, PrefixSpec,
    PromptInit, PromptSpec, Sampler, Tuning,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

pub(super) fn tuning() -> impl Strategy<Value = Tuning> {
    prop_oneof![
        Just(Tuning::All),
        Just(Tuning::Heads),
        Just(Tuning::Biases),
        (1..9_u32, number(), number(), vec(word(), 1..3)).prop_map(
            |(rank, alpha, dropout, targets)| Tuning::Lora(LoraSpec {
                rank,
                alpha,
                dropout,
                targets
            })
        ),
        any::<u32>().prop_map(Tuning::LastBlocks),
        (any::<u32>(), option::of(word())).prop_map(|(tokens, text)| {
            let init = text.map_or(PromptInit::Random, PromptInit::Text);
            Tuning::Prompt(PromptSpec { tokens, init })
        }),
        any::<u32>().prop_map(|tokens| Tuning::Prefix(PrefixSpec { tokens })),
        (any::<u32>(), any::<bool>()).prop_map(|(size, both)| {
            let kind = match both {
                true => AdapterKind::Houlsby,
                false => AdapterKind::Pfeiffer,
            };
            Tuning::Adapter(AdapterSpec { size, kind })
        }),
        (option::of(any::<u64>()), option::of(number()), any::<u32>()).prop_map(
            |(every_steps, every_epochs, start)| Tuning::Gradual(GradualSpec {
                every_steps,
                every_epochs,
                start
            })
        )
    ]
}

pub(super) fn sampler() -> impl Strategy<Value = Sampler> {
    prop_oneof![
        Just(Sampler::Proportional),
        Just(Sampler::Uniform),
        number().prop_map(Sampler::Temperature),
        (any::<u64>(), number())
            .prop_map(|(cap, temperature)| Sampler::Capped { cap, temperature }),
        (number(), number()).prop_map(|(from, to)| Sampler::Annealed { from, to }),
        (number(), any::<u64>(), number(), number()).prop_map(
            |(alpha, every_steps, smoothing, temperature)| Sampler::Adaptive(AdaptiveSpec {
                alpha,
                every_steps,
                smoothing,
                temperature,
                by: if alpha > 0.5 {
                    AdaptiveBy::Affinity
                } else {
                    AdaptiveBy::Losses
                },
            })
        ),
        btree_map(word(), number(), 1..4).prop_map(Sampler::Probabilities),
    ]
}
