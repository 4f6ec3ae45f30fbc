//! Rules of what is trained of the backbone, and how fast.

use super::Findings;
use crate::JobSpec;
use crate::job::{GradualSpec, Init, LoraSpec, PromptInit, Tuning};

pub(super) fn rules(spec: &JobSpec, found: &mut Findings) {
    let trains_words = matches!(spec.tuning, Tuning::All | Tuning::Gradual(_));
    let field = "backbone.extend_vocabulary";
    found.require(trains_words || !spec.backbone.extend_vocabulary, field, || {
        "adds rows to the word table, which this tuning does not train: all new tokens would stay one and \
         the same; use `tuning: all` or `gradual`, or remove it"
            .to_owned()
    });
    match &spec.tuning {
        Tuning::All | Tuning::Heads | Tuning::Biases => {}
        Tuning::LastBlocks(last) => found.require(*last > 0, "tuning.last_blocks", || {
            "is 0; expected at least 1: to train no block at all write `tuning: heads`".to_owned()
        }),
        Tuning::Gradual(given) => gradual(given, found),
        Tuning::Lora(given) => lora(given, found),
        Tuning::Adapter(given) => {
            let (field, size) = ("tuning.adapter.size", given.size);
            found.require((1..=4096).contains(&size), field, || {
                format!("is {size}; expected 1 to 4096, such as 64")
            });
        }
        Tuning::Prompt(given) => {
            tokens("tuning.prompt.tokens", given.tokens, found);
            if let PromptInit::Text(text) = &given.init {
                found.require(!text.trim().is_empty(), "tuning.prompt.init.text", || {
                    "is empty; expected a text to start at, or `init: random`".to_owned()
                });
            }
        }
        Tuning::Prefix(given) => tokens("tuning.prefix.tokens", given.tokens, found),
    }
}

/// Learned vectors that stand for tokens.
fn tokens(field: &str, tokens: u32, found: &mut Findings) {
    found.require((1..=1024).contains(&tokens), field, || {
        format!("is {tokens}; expected 1 to 1024, such as 20")
    });
}

fn gradual(gradual: &GradualSpec, found: &mut Findings) {
    let field = "tuning.gradual.every_steps";
    found.require(gradual.every_steps != Some(0), field, || {
        "is 0; expected at least 1: to train all blocks from the start write `tuning: all`"
            .to_owned()
    });
    let Some(epochs) = gradual.every_epochs else {
        return;
    };
    let field = "tuning.gradual.every_epochs";
    found.require(epochs.is_finite() && epochs > 0.0, field, || {
        format!("is {epochs}; expected a finite number above 0, such as 1")
    });
    found.require(gradual.every_steps.is_none(), field, || {
        "is given beside tuning.gradual.every_steps; expected one of the two: remove one".to_owned()
    });
}

fn lora(lora: &LoraSpec, found: &mut Findings) {
    found.require((1..=1024).contains(&lora.rank), "tuning.lora.rank", || {
        format!("is {}; expected 1 to 1024, such as 8", lora.rank)
    });
    found.require(
        lora.alpha.is_finite() && lora.alpha > 0.0,
        "tuning.lora.alpha",
        || {
            format!(
                "is {}; expected a finite number above 0, such as 16",
                lora.alpha
            )
        },
    );
    found.require(
        (0.0..1.0).contains(&lora.dropout),
        "tuning.lora.dropout",
        || format!("is {}; expected at least 0 and below 1", lora.dropout),
    );
    let named = !lora.targets.is_empty() && lora.targets.iter().all(|t| !t.trim().is_empty());
    found.require(named, "tuning.lora.targets", || {
        "is empty or holds an empty name; expected names of linear layers, such as query and value"
            .to_owned()
    });
}

/// What the optimizer does with blocks needs blocks that are trained, and what it pulls back to must be
/// worth it.
pub(super) fn rates(spec: &JobSpec, found: &mut Findings) {
    let optimizer = &spec.training.optimizer;
    let (decay, pull) = (optimizer.block_decay, optimizer.l2_sp);
    let field = "training.optimizer.block_decay";
    found.require(decay > 0.0 && decay <= 1.0, field, || {
        format!("is {decay}; expected above 0 to 1, such as 0.9 (1 gives all blocks one rate)")
    });
    let frozen = spec.tuning == Tuning::Heads;
    found.require(decay == 1.0 || !frozen, field, || {
        "has no block to work on: `tuning: heads` trains none; remove it".to_owned()
    });
    let is_prompt = matches!(spec.tuning, Tuning::Prompt(_));
    found.require(decay == 1.0 || !is_prompt, field, || {
        "would slow the prompt down alone: `tuning: prompt` trains nothing else of the backbone; remove it \
         and set training.optimizer.learning_rate"
            .to_owned()
    });
    let field = "training.optimizer.l2_sp";
    found.require(pull.is_finite() && pull >= 0.0, field, || {
        format!("is {pull}; expected a finite number of at least 0 (0 turns it off), such as 0.01")
    });
    if pull == 0.0 {
        return;
    }
    found.require(!frozen, field, || {
        "has nothing to hold: `tuning: heads` trains no weight of the backbone; remove it"
            .to_owned()
    });
    let adds = matches!(
        spec.tuning,
        Tuning::Lora(_) | Tuning::Adapter(_) | Tuning::Prompt(_) | Tuning::Prefix(_)
    );
    found.require(!adds, field, || {
        "has nothing to hold: `tuning: lora`, `adapter`, `prompt` and `prefix` leave all pretrained weights \
         as they are, and what they train has no pretrained value; use training.optimizer.weight_decay"
            .to_owned()
    });
    found.require(spec.backbone.init == Init::Pretrained, field, || {
        "pulls weights back to where they started, which is worth nothing with `backbone.init: \
         random`; remove it"
            .to_owned()
    });
}
