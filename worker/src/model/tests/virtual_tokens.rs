//! Prompts and prefixes against what they stand for: words in front of a text.

use super::super::attention::Heads;
use super::super::layout::Layout;
use super::*;
use espalier_spec::job::{PrefixSpec, PromptInit, PromptSpec};

/// What stands before each text.
const BEGINNING: [u32; 2] = [6, 9];

fn tuned(source: &Source, tuning: Tuning) -> Result<Box<dyn Backbone>, Error> {
    let tuned = Options {
        tuning,
        ..options(Init::Pretrained, Pooling::Mean)
    };
    build(source, &tuned)
}

fn of_tokens(tokens: u32) -> Tuning {
    Tuning::Prompt(PromptSpec {
        tokens,
        init: PromptInit::Random,
    })
}

/// Texts with the beginning before each; the rows of the beginning, and all others.
fn longer() -> (Batch, Tensor, Tensor) {
    let texts = TEXTS.iter();
    let texts: Vec<Vec<u32>> = texts.map(|text| [&BEGINNING[..], *text].concat()).collect();
    let samples: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let batch = TokenBatch::pack(&samples, &[1, 2, 3, 4], Device::Cpu).unwrap();
    let (mut first, mut others, mut row) = (Vec::new(), Vec::new(), 0i64);
    for group in &batch.layout.groups {
        for _ in 0..group.samples {
            first.extend(row..row + 2);
            others.extend(row + 2..row + group.length);
            row += group.length;
        }
    }
    let (first, others) = (Tensor::from_slice(&first), Tensor::from_slice(&others));
    (Batch::Tokens(batch), first, others)
}

fn rows(backbone: &dyn Backbone, batch: &Batch) -> Tensor {
    let leaves = forward(backbone, batch, false).leaves(true).unwrap();
    leaves.rows.unwrap()
}

#[track_caller]
fn assert_near(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.size(), expected.size(), "{what}");
    let distance = (found - expected).abs().max().double_value(&[]);
    let most = 1e-5 * (1.0 + expected.abs().max().double_value(&[]));
    assert!(distance < most, "{what}: {distance}");
}

/// Vectors of a text's tokens from a cache, which takes them in two parts.
fn by_cache(backbone: &dyn Backbone, text: &[u32]) -> Tensor {
    let decoder = backbone.decoder().unwrap();
    let mut cache = decoder.cache(text.len()).unwrap();
    let (start, rest) = text.split_at(text.len() / 2);
    let parts = [start, rest].map(|part| decoder.extend(part, &mut cache).unwrap());
    assert!(decoder.extend(&[2], &mut cache).is_err(), "no room");
    Tensor::cat(&parts, 0)
}

/// Checks that the vectors of texts are the same from a cache.
fn assert_cached(backbone: &dyn Backbone, family: &str) {
    let decoder = backbone.decoder().unwrap();
    assert_eq!(decoder.positions(), 8, "{family}: positions are taken");
    for text in TEXTS {
        let batch = Batch::Tokens(TokenBatch::pack(&[text], &[1], Device::Cpu).unwrap());
        assert_near(&by_cache(backbone, text), &rows(backbone, &batch), family);
    }
}

// Promise: a prompt that is made of words acts as these words do, and its gradient is theirs; only the rows of
// the texts come out.
#[test]
fn a_prompt_acts_as_the_words_that_it_is_made_of() {
    let golden = golden();
    let (longer, first, others) = longer();
    for family in ["bert", "roberta", "distilbert", "mpnet", "gpt2", "llama"] {
        let dir = tempfile::tempdir().unwrap();
        let source = directory(dir.path(), &golden[family]["config"]);
        let plain = build(&source, &options(Init::Pretrained, Pooling::Mean)).unwrap();
        let mut prompted = tuned(&source, of_tokens(2)).unwrap();
        let words = plain.table().unwrap().rows_of(&BEGINNING).unwrap();
        prompted.blocks_mut()[0].load(EMBEDDINGS, &words).unwrap();
        let batch = batch(family);
        let found = rows(prompted.as_ref(), &batch);
        let expected = rows(plain.as_ref(), &longer).index_select(0, &others);
        assert_near(&found, &expected, family);

        let weights = values(7, &found.size(), 0.0);
        let pass = forward(prompted.as_ref(), &batch, true);
        let leaves = pass.leaves(true).unwrap();
        let loss = (leaves.rows.as_ref().unwrap() * &weights).sum(Kind::Float);
        loss.backward();
        let of_table = pass.backward(&leaves, |_| Ok::<(), Error>(())).unwrap();
        assert!(of_table.is_none(), "{family}: the table is frozen");
        let own = prompted.blocks()[0].prompt().unwrap().grad();

        let pass = forward(plain.as_ref(), &longer, true);
        let leaves = pass.leaves(true).unwrap();
        let text = leaves.rows.as_ref().unwrap().index_select(0, &others);
        (text * &weights).sum(Kind::Float).backward();
        let of_table = pass.backward(&leaves, |_| Ok::<(), Error>(())).unwrap();
        let of_words = of_table.unwrap().index_select(0, &first);
        let of_words = of_words.view([TEXTS.len() as i64, 2, -1]);
        let expected = of_words.sum_dim_intlist(&[0i64][..], false, Kind::Float);
        assert_near(&own, &expected, family);
        if DECODERS.contains(&family) {
            assert_cached(prompted.as_ref(), family);
        }
    }
}

// Promise: a prefix that is made of the keys and values of words acts as these words do in a model that looks
// back alone, in a batch and from a cache.
#[test]
fn a_prefix_acts_as_the_words_that_it_is_made_of() {
    let golden = golden();
    let (longer, _, others) = longer();
    for family in DECODERS {
        let dir = tempfile::tempdir().unwrap();
        let source = directory(dir.path(), &golden[family]["config"]);
        let plain = build(&source, &options(Init::Pretrained, Pooling::Mean)).unwrap();
        let decoder = plain.decoder().unwrap();
        let mut cache = decoder.cache(BEGINNING.len()).unwrap();
        let _ = tch::no_grad(|| decoder.extend(&BEGINNING, &mut cache)).unwrap();
        let mut prefixed = tuned(&source, Tuning::Prefix(PrefixSpec { tokens: 2 })).unwrap();
        let layers = prefixed.blocks_mut().iter_mut();
        let layers = layers.filter(|block| block.prefix().is_some());
        for (layer, block) in layers.enumerate() {
            for (end, values) in ["prefix_key", "prefix_value"].iter().zip(cache.seen(layer)) {
                let name = format!("{}.{end}", block.name());
                block.load(&name, &values).unwrap();
            }
        }
        let found = rows(prefixed.as_ref(), &batch(family));
        let expected = rows(plain.as_ref(), &longer).index_select(0, &others);
        assert_near(&found, &expected, family);
        assert_cached(prefixed.as_ref(), family);
        // Its gradient arrives, and nothing else has one.
        let batch = batch(family);
        let pass = forward(prefixed.as_ref(), &batch, true);
        let leaves = pass.leaves(false).unwrap();
        leaves.features.sum(Kind::Float).backward();
        let of_table = pass.backward(&leaves, |_| Ok::<(), Error>(())).unwrap();
        assert!(of_table.is_none(), "{family}: the table is frozen");
        let trained = prefixed.blocks().iter().flat_map(Block::params);
        let trained = trained.filter(|param| param.tensor.requires_grad());
        let names: Vec<&str> = trained.map(|param| param.name.as_str()).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        let norm = |block: &Block| block.grad().map(|grad| grad.abs().max().double_value(&[]));
        let norms: Vec<f64> = prefixed.blocks().iter().filter_map(norm).collect();
        assert!(
            norms.len() == 2 && norms.iter().all(|norm| *norm > 0.0),
            "{norms:?}"
        );
    }
}

// Promise: all rows of every sample see the keys of a prefix, by softmax(q [K'; K]') [V'; V] of the paper.
#[test]
fn every_row_sees_the_prefix() {
    let heads = Heads {
        queries: 1,
        keys: 1,
        width: 2,
        causal: false,
        dropout: 0.0,
    };
    let [q, k, v] = [1, 2, 3].map(|place| values(place, &[3, 2], 0.0));
    let [keys, numbers] = [4, 5].map(|place| values(place, &[2, 2], 0.0));
    let mut layout = Layout::default();
    layout.push(1, 1);
    layout.push(2, 2);
    let ctx = Context::eval();
    let prefix = Some([&keys, &numbers]);
    let found = heads.attend([&q, &k, &v], prefix, &layout, (&ctx, 0));
    let of = |start: i64, length: i64| {
        let own = |x: &Tensor| x.narrow(0, start, length);
        let all_keys = Tensor::cat(&[&keys, &own(&k)], 0);
        let scores = own(&q).matmul(&all_keys.transpose(0, 1)) / 2f64.sqrt();
        let all_values = Tensor::cat(&[&numbers, &own(&v)], 0);
        scores.softmax(-1, Kind::Float).matmul(&all_values)
    };
    let expected = Tensor::cat(&[of(0, 1), of(1, 2)], 0);
    assert_near(&found.unwrap(), &expected, "attention");
}

// Promise: a prompt starts at the word vectors of its text, again and again, or at those of drawn words, the
// same ones for the same seed; a text without words is refused.
#[test]
fn prompts_start_at_words() {
    let dir = tempfile::tempdir().unwrap();
    let source = directory(dir.path(), &golden()["bert"]["config"]);
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"good": 3, "bad": 7, "[UNK]": 0}, "unk_token": "[UNK]"},
    });
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let started = |init: PromptInit| {
        let backbone = tuned(&source, Tuning::Prompt(PromptSpec { tokens: 3, init }))?;
        let table = backbone.table().unwrap();
        let words = table.rows_of(&[3, 7, 3]).unwrap();
        let own = prompt(backbone.blocks()).unwrap().unwrap();
        Ok::<_, Error>((own, words))
    };
    let (own, words) = started(PromptInit::Text("good bad".to_owned())).unwrap();
    assert!(own.equal(&words));
    let (drawn, words) = started(PromptInit::Random).unwrap();
    assert!(!drawn.equal(&words));
    assert!(drawn.equal(&started(PromptInit::Random).unwrap().0));
    let error = started(PromptInit::Text(" ".to_owned())).unwrap_err();
    assert!(error.to_string().contains("has no tokens"), "{error}");
}

// Promise: where virtual tokens have no place is said, with what to do.
#[test]
fn what_has_no_place_is_refused() {
    let golden = golden();
    let refused = |family: &str, tuning: Tuning, says: &str| {
        let dir = tempfile::tempdir().unwrap();
        let source = directory(dir.path(), &golden[family]["config"]);
        let error = tuned(&source, tuning).unwrap_err().to_string();
        assert!(error.contains(says), "{family}: {error}");
    };
    let prefix = |tokens| Tuning::Prefix(PrefixSpec { tokens });
    refused("mpnet", prefix(2), "such as prompt");
    refused("vit", prefix(2), "reads none");
    refused("resnet", of_tokens(2), "reads none");
    refused("gpt2", of_tokens(10), "no room is left");
    refused("bert", prefix(12), "no room is left");
}

// Promise: a folder in PEFT's layout is part of the model in every job; one that does not fit is named.
#[test]
fn saved_tokens_are_part_of_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let source = directory(dir.path(), &golden()["gpt2"]["config"]);
    let folder = dir.path().join(PREFIX_DIR);
    std::fs::create_dir(&folder).unwrap();
    let describe = |kind: &str, tokens: u32| {
        let meta = serde_json::json!({"peft_type": kind, "num_virtual_tokens": tokens});
        std::fs::write(folder.join(PEFT_META), meta.to_string()).unwrap();
    };
    let save = |size: [i64; 2]| {
        let named = [(EMBEDDINGS, values(5, &size, 0.0))];
        Tensor::write_safetensors(&named, folder.join(PEFT_FILE)).unwrap();
    };
    describe("PREFIX_TUNING", 2);
    // Two layers of keys and values, 8 wide.
    save([2, 32]);
    let model = tuned(&source, Tuning::Heads).unwrap();
    let own = super::super::prefix(model.blocks()).unwrap().unwrap();
    assert_eq!((own.layers, own.heads), (2, 2));
    assert_near(&own.values, &values(5, &[2, 32], 0.0), "as saved");
    assert_eq!(Source::open(dir.path()).unwrap().max_positions(), Some(8));

    let error = |tuning: Tuning| tuned(&source, tuning).unwrap_err().to_string();
    let other = error(Tuning::Prefix(PrefixSpec { tokens: 3 }));
    assert!(other.contains("a prefix of 2 tokens already"), "{other}");
    save([2, 30]);
    let shape = error(Tuning::Heads);
    assert!(
        shape.contains("[2, 30]") && shape.contains("[2, 32]"),
        "{shape}"
    );
    describe("PROMPT_TUNING", 2);
    let kind = error(Tuning::Heads);
    assert!(kind.contains("expected \"PREFIX_TUNING\""), "{kind}");
}
