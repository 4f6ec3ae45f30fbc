//! A small random BERT and data that it can learn in seconds, written from fixed seeds.

use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Words that decide the class of a sample.
const TOPICS: [&[&str]; 3] = [
    &["apple", "pear", "plum", "cherry"],
    &["train", "ship", "bicycle", "lorry"],
    &["violin", "drum", "flute", "piano"],
];
/// Words that say nothing.
const FILLER: [&str; 12] = [
    "the", "a", "of", "and", "to", "in", "with", "very", "old", "new", "this", "that",
];
/// Words that decide the number of a sample: each adds its index.
const AMOUNTS: [&str; 5] = ["zero", "one", "two", "three", "four"];
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Where the model and the data lie.
#[derive(Clone, Debug)]
pub struct Toy {
    /// Directory that holds `model/` and the data files.
    pub dir: PathBuf,
}

/// A small generator (splitmix64): the same numbers on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }
}

impl Toy {
    /// Writes model and data into `dir`: `topic.{train,validation,test}.jsonl` (one of three
    /// classes), `mentions.….jsonl` (any of three), `amount.….csv` (a number).
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir.join("model"))?;
        let toy = Self {
            dir: dir.to_owned(),
        };
        fs::write(toy.path("model/config.json"), config().to_string())?;
        fs::write(toy.path("model/tokenizer.json"), tokenizer().to_string())?;
        for (seed, split, rows) in [(1, "train", 192), (2, "validation", 48), (3, "test", 48)] {
            let mut random = Random(seed);
            let (mut topic, mut mentions) = (String::new(), String::new());
            let mut amount = "text,label\n".to_owned();
            for _ in 0..rows {
                let class = random.below(3);
                let text = sentence(&mut random, &[TOPICS[class]]);
                let name = ["fruit", "traffic", "music"][class];
                let _ = writeln!(topic, "{}", json!({"text": text, "label": name}));

                let bits = random.below(8);
                let chosen: Vec<usize> = (0..3).filter(|bit| bits >> bit & 1 == 1).collect();
                let words: Vec<&[&str]> = chosen.iter().map(|&c| TOPICS[c]).collect();
                let names: Vec<&str> = chosen
                    .iter()
                    .map(|&c| ["fruit", "traffic", "music"][c])
                    .collect();
                let text = sentence(&mut random, &words);
                let _ = writeln!(mentions, "{}", json!({"text": text, "label": names}));

                let number = random.below(AMOUNTS.len());
                let text = sentence(&mut random, &[&AMOUNTS[number..=number]]);
                let _ = writeln!(amount, "{text},{number}.5");
            }
            fs::write(toy.path(&format!("topic.{split}.jsonl")), topic)?;
            fs::write(toy.path(&format!("mentions.{split}.jsonl")), mentions)?;
            fs::write(toy.path(&format!("amount.{split}.csv")), amount)?;
        }
        Ok(toy)
    }

    /// Path of a file of the toy.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn sentence(random: &mut Random, groups: &[&[&str]]) -> String {
    let mut words = Vec::new();
    for group in groups {
        for _ in 0..2 {
            words.push(random.pick(group));
        }
    }
    for _ in 0..random.below(8) + 1 {
        let place = random.below(words.len() + 1);
        words.insert(place, random.pick(&FILLER));
    }
    words.join(" ")
}

fn config() -> Value {
    json!({
        "model_type": "bert", "architectures": ["BertModel"],
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "hidden_act": "gelu", "vocab_size": 64,
        "max_position_embeddings": 64, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.1, "pad_token_id": 0, "position_embedding_type": "absolute"
    })
}

fn tokenizer() -> Value {
    let words = SPECIAL.iter().chain(&FILLER).chain(&AMOUNTS);
    let words = words.chain(TOPICS.iter().copied().flatten());
    let vocab: serde_json::Map<String, Value> = words
        .enumerate()
        .map(|(id, word)| ((*word).to_owned(), json!(id)))
        .collect();
    let added: Vec<Value> = (0..)
        .zip(SPECIAL)
        .map(|(id, word): (u32, _)| {
            json!({"id": id, "content": word, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                     {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 1}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}
        },
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    })
}

/// A job file over the toy with three tasks of three kinds and `steps` steps. Tests change it.
#[must_use]
pub fn job(name: &str, toy: &Toy, steps: u64) -> Value {
    let data = |task: &str, ending: &str| {
        let file = |split: &str| toy.path(&format!("{task}.{split}.{ending}"));
        json!({"train": file("train"), "validation": file("validation"), "test": file("test")})
    };
    json!({
        "name": name,
        "seed": 5,
        "backbone": {"path": toy.path("model"), "init": "random"},
        "tasks": [
            {"name": "topic", "head": "single_label", "data": data("topic", "jsonl")},
            {"name": "mentions", "head": "multi_label", "data": data("mentions", "jsonl")},
            {"name": "amount", "head": "regression", "data": data("amount", "csv")}
        ],
        "training": {"steps": steps, "batch_size": 24,
                     "optimizer": {"learning_rate": 2e-3, "head_learning_rate": 1e-2}},
        "checkpoint": {"every_steps": 50}
    })
}
