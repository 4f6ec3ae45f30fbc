//! What of a backbone is trained.

use super::{Bad, Wire, at};
use crate::v1;
use espalier_spec::job::{
    AdapterKind, AdapterSpec, GradualSpec, LoraSpec, PrefixSpec, PromptInit, PromptSpec, Tuning,
};

impl Wire for Tuning {
    type Message = v1::Tuning;

    fn to_wire(&self) -> v1::Tuning {
        use v1::tuning::{AllBlocks, BiasesOnly, HeadsOnly, Mode};
        let mode = match self {
            Tuning::All => Mode::All(AllBlocks {}),
            Tuning::Heads => Mode::Heads(HeadsOnly {}),
            Tuning::LastBlocks(n) => Mode::LastBlocks(*n),
            Tuning::Gradual(gradual) => Mode::Gradual(v1::Gradual {
                every_steps: gradual.every_steps,
                every_epochs: gradual.every_epochs,
                start: gradual.start,
            }),
            Tuning::Biases => Mode::Biases(BiasesOnly {}),
            Tuning::Adapter(adapter) => Mode::Adapter(v1::Adapter {
                size: Some(adapter.size),
                kind: match adapter.kind {
                    AdapterKind::Pfeiffer => v1::adapter::Kind::Pfeiffer.into(),
                    AdapterKind::Houlsby => v1::adapter::Kind::Houlsby.into(),
                },
            }),
            Tuning::Prompt(prompt) => Mode::Prompt(v1::Prompt {
                tokens: Some(prompt.tokens),
                text: match &prompt.init {
                    PromptInit::Random => None,
                    PromptInit::Text(text) => Some(text.clone()),
                },
            }),
            Tuning::Prefix(prefix) => Mode::Prefix(v1::Prefix {
                tokens: Some(prefix.tokens),
            }),
            Tuning::Lora(lora) => Mode::Lora(v1::Lora {
                rank: Some(lora.rank),
                alpha: Some(lora.alpha),
                dropout: lora.dropout,
                targets: lora.targets.clone(),
            }),
        };
        v1::Tuning { mode: Some(mode) }
    }

    fn read(m: v1::Tuning, bad: &mut Bad, path: &str) -> Self {
        use v1::tuning::Mode;
        match m.mode {
            None => Tuning::default(),
            Some(Mode::All(_)) => Tuning::All,
            Some(Mode::Heads(_)) => Tuning::Heads,
            Some(Mode::LastBlocks(n)) => Tuning::LastBlocks(n),
            Some(Mode::Gradual(m)) => Tuning::Gradual(GradualSpec {
                every_steps: m.every_steps,
                every_epochs: m.every_epochs,
                start: m.start,
            }),
            Some(Mode::Biases(_)) => Tuning::Biases,
            Some(Mode::Adapter(m)) => {
                use v1::adapter::Kind;
                let field = || at(&at(path, "adapter"), "kind");
                let kind = bad.choice(m.kind, field, "pfeiffer or houlsby");
                let usual = AdapterSpec::default();
                Tuning::Adapter(AdapterSpec {
                    size: m.size.unwrap_or(usual.size),
                    kind: match kind {
                        Kind::Unspecified => usual.kind,
                        Kind::Pfeiffer => AdapterKind::Pfeiffer,
                        Kind::Houlsby => AdapterKind::Houlsby,
                    },
                })
            }
            Some(Mode::Prompt(m)) => Tuning::Prompt(PromptSpec {
                tokens: m.tokens.unwrap_or(PromptSpec::default().tokens),
                init: m.text.map_or(PromptInit::Random, PromptInit::Text),
            }),
            Some(Mode::Prefix(m)) => Tuning::Prefix(PrefixSpec {
                tokens: m.tokens.unwrap_or(PrefixSpec::default().tokens),
            }),
            Some(Mode::Lora(m)) => {
                let usual = LoraSpec::default();
                Tuning::Lora(LoraSpec {
                    rank: m.rank.unwrap_or(usual.rank),
                    alpha: m.alpha.unwrap_or(usual.alpha),
                    dropout: m.dropout,
                    targets: match m.targets.is_empty() {
                        true => usual.targets,
                        false => m.targets,
                    },
                })
            }
        }
    }
}
