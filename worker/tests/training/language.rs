//! The next token: training alone and beside a task on whole texts, evaluation, and going on with a text.

use crate::kit::{Layout, Outcome, spec, train, train_in_halves};
use espalier_spec::JobSpec;
use espalier_spec::exchange::Sharding;
use espalier_spec::job::{Files, HeadKind, Init, Metric, Pooling, Tuning};
use espalier_spec::plan::ExchangePlan;
use espalier_worker::checkpoint::{Export, ExportedTask, write_export};
use espalier_worker::engine::Sources;
use espalier_worker::generate::Sampling;
use espalier_worker::model::{Backbone, Batch, Context, Options, Pass, Source, TokenBatch, build};
use espalier_worker::predict::{Answer, Predictor};
use serde_json::{Value, json};
use std::path::Path;
use tch::{Device, Tensor};

const STEPS: u64 = 6;
/// Both ranks serve both tasks.
const ALL: [&[u32]; 2] = [&[0, 1], &[0, 1]];

/// A small random decoder of a family beside the toy's tokenizer.
fn decoder(dir: &Path, family: &str) {
    let config = match family {
        "gpt2" => json!({
            "model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2,
            "n_positions": 16, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
            "initializer_range": 0.1, "eos_token_id": 3, "torch_dtype": "float16",
        }),
        _ => json!({
            "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 16, "initializer_range": 0.1, "eos_token_id": [3],
            "attention_dropout": 0.1, "tie_word_embeddings": false, "dtype": "bfloat16",
        }),
    };
    std::fs::write(dir.join("model/config.json"), config.to_string()).unwrap();
}

fn language(dir: &Path, join: &str) -> Value {
    let file = |split: &str| dir.join(format!("topic.{split}.jsonl"));
    json!({
        "name": "language", "head": "causal_lm",
        "data": {"train": file("train"), "test": file("test"), "join": join},
    })
}

/// Texts in which every word says which one follows.
fn chains(dir: &Path) -> String {
    const WORDS: [&str; 12] = [
        "the", "a", "of", "and", "to", "in", "with", "very", "old", "new", "this", "that",
    ];
    let text = |start: usize| {
        let word = |place: usize| WORDS[(start + 5 * place) % WORDS.len()];
        let words: Vec<&str> = (0..10 + start % 3).map(word).collect();
        json!({"text": words.join(" ")}).to_string()
    };
    let file = dir.join("chains.jsonl");
    let lines: Vec<String> = (0..96).map(text).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

/// A job that learns the toy's texts, and what they are about if `beside`.
fn learn(dir: &Path, (family, join): (&str, &str), beside: bool, steps: u64) -> JobSpec {
    let job = spec(dir, steps, |job| {
        let topic = job["tasks"][0].clone();
        job["tasks"] = match beside {
            true => json!([language(dir, join), topic]),
            false => json!([language(dir, join)]),
        };
        job["backbone"]["pooling"] = json!("last");
        job["balancer"] = json!(if beside { "upgrad" } else { "mean" });
    });
    decoder(dir, family);
    job
}

fn run(job: &JobSpec, ranks: u32, sharding: Sharding) -> Outcome {
    let apart = job.tasks.len() > 1;
    let how = ExchangePlan {
        sharding,
        apart,
        ..ExchangePlan::default()
    };
    let one: [&[u32]; 2] = [&[0], &[0]];
    let tasks = if ranks == 1 { &one } else { &ALL };
    train(
        job,
        &Layout::new(ranks, &tasks[..job.tasks.len()], how),
        STEPS,
    )
}

// Promise: sharding changes no bit of a decoder's training, alone and beside a task on whole texts, where
// gradients travel apart; two ranks train like one, and evaluate like one.
#[test]
fn ranks_and_sharding_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (family, join, beside) in [
        ("gpt2", "nothing", true),
        ("llama", "end_token", false),
        ("gpt2", "apart", false),
    ] {
        let job = learn(folder.path(), (family, join), beside, STEPS);
        let once = run(&job, 2, Sharding::Optimizer);
        let what = format!("{family}, {join}");
        once.assert_same(&run(&job, 2, Sharding::None), &what);
        once.assert_same(&run(&job, 2, Sharding::Full), &what);
        let one = run(&job, 1, Sharding::Optimizer);
        let distance = one.distance(&once);
        // Adam steps as far for a small gradient as for a large one: rounding shows.
        assert!(distance < 2e-4, "{what}: {distance}");
        let loss = |done: &Outcome| done.evaluation.as_ref().unwrap().tasks["language"].loss;
        assert!((loss(&one) - loss(&once)).abs() < 1e-4, "{what}");
    }
}

// Promise: a run that is saved half-way and taken up again ends with the same bits: windows are those of
// the pass that they were drawn in.
#[test]
fn a_resumed_run_draws_the_same_windows() {
    let folder = tempfile::tempdir().unwrap();
    let job = learn(folder.path(), ("gpt2", "nothing"), false, 40);
    let layout = Layout::new(2, &ALL[..1], ExchangePlan::default());
    let whole = train(&job, &layout, 40);
    let halves = train_in_halves(&job, &layout, 40);
    assert!(whole.model == halves.model && whole.heads == halves.heads);
}

// Promise: low-rank updates of a language model bear the names of the model that has its words' matrix, and bring the
// matrix that learned beside them.
#[test]
fn updates_bring_the_words_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = learn(folder.path(), ("gpt2", "nothing"), false, STEPS);
    job.tuning =
        serde_json::from_value(json!({"lora": {"rank": 2, "targets": ["c_attn"]}})).unwrap();
    let done = run(&job, 1, Sharding::Optimizer);
    let read = |bytes: &[u8], name: &str| {
        let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
        file.tensor(name).unwrap().data().to_vec()
    };
    let names = |bytes: &[u8]| -> Vec<String> {
        let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
        file.names().into_iter().map(str::to_owned).collect()
    };
    let head = "base_model.model.lm_head.weight";
    for name in names(&done.adapter) {
        let update = "base_model.model.transformer.h.";
        assert!(name == head || name.starts_with(update), "{name}");
    }
    assert_eq!(
        read(&done.adapter, head),
        read(&done.model, "lm_head.weight")
    );
}

// Promise: texts are learned, far below the baseline that knows how frequent words are; perplexity is e
// to the loss per token, over every token but the first.
#[test]
fn language_is_learned() {
    let folder = tempfile::tempdir().unwrap();
    for family in ["gpt2", "llama"] {
        let mut job = learn(folder.path(), (family, "end_token"), false, 100);
        let file = chains(folder.path());
        job.tasks[0].data.train = Files::One(file.clone());
        job.tasks[0].data.test = Some(Files::One(file));
        let layout = Layout::new(2, &ALL[..1], ExchangePlan::default());
        let done = train(&job, &layout, 100);
        let scores = &done.evaluation.unwrap().tasks["language"];
        let perplexity = scores.metrics[&Metric::Perplexity];
        assert!((perplexity - scores.loss.exp()).abs() < 1e-9);
        assert!(
            perplexity < 0.5 * scores.baseline[&Metric::Perplexity],
            "{family}: {scores:?}"
        );
    }
}

/// Writes an export of a random decoder.
fn exported(dir: &Path, family: &str) -> Box<dyn Backbone> {
    spec(dir, 1, |_| ());
    decoder(dir, family);
    let model = dir.join("model");
    let source = Source::open(&model).unwrap();
    let options = Options {
        init: Init::Random,
        seed: 3,
        tuning: Tuning::All,
        pooling: Pooling::Last,
        dropout: None,
        device: Device::Cpu,
    };
    let backbone = build(&source, &options).unwrap();
    let matrix = backbone.decoder().unwrap().vocabulary().unwrap();
    let heads = [("heads.language.weight".to_owned(), matrix * 3.0)];
    let meta = Export {
        format: 1,
        job: "toy".to_owned(),
        step: 0,
        pooling: Pooling::Last,
        max_tokens: 8,
        tasks: vec![ExportedTask {
            name: "language".to_owned(),
            head: HeadKind::CausalLm,
            labels: Vec::new(),
            classes: None,
            max_answer_tokens: None,
            words: Some(false),
        }],
    };
    let tensors = backbone.export().unwrap();
    write_export(&dir.join("export"), &model, &meta, tensors, &heads, &[]).unwrap();
    backbone
}

/// Logits of the token that follows, by a pass over the whole text.
fn logits(backbone: &dyn Backbone, ids: &[u32]) -> Vec<f32> {
    let batch = Batch::Tokens(TokenBatch::pack(&[ids], &[0], Device::Cpu).unwrap());
    let pass = Pass::forward(backbone, &batch, &Context::eval(), |_| {
        Ok::<(), espalier_worker::model::Error>(())
    });
    let rows = pass.unwrap().leaves(true).unwrap().rows.unwrap();
    let last = rows.narrow(0, ids.len() as i64 - 1, 1);
    let matrix = backbone.decoder().unwrap().vocabulary().unwrap() * 3.0;
    let logits = last.matmul(&matrix.transpose(0, 1)).flatten(0, -1);
    Vec::<f32>::try_from(&logits).unwrap()
}

fn text(answers: &std::collections::BTreeMap<String, Answer>) -> (String, usize, String) {
    let Answer::Text {
        completion,
        tokens,
        stop,
    } = &answers["language"]
    else {
        panic!("no text: {answers:?}");
    };
    let stop = serde_json::to_value(stop).unwrap();
    (
        completion.clone(),
        *tokens,
        stop.as_str().unwrap().to_owned(),
    )
}

// Promise: with the cache a text goes on as by a pass over the whole text for every token; it ends where
// the model sees no more, at an end token, or where it was told to; drawn texts are those of their seed.
#[test]
fn texts_go_on_as_without_a_cache() {
    for family in ["gpt2", "llama"] {
        let folder = tempfile::tempdir().unwrap();
        let backbone = exported(folder.path(), family);
        let predictor = Predictor::load(&folder.path().join("export")).unwrap();
        assert!(predictor.generates(&[]));
        let prompt = "apple pear the";
        let Ok(input) = predictor.text(prompt) else {
            panic!("a text");
        };
        let start = input.ids().unwrap().to_vec();
        for temperature in [0.0, 1.0] {
            let sampling = Sampling {
                temperature,
                seed: 11,
                ..Sampling::default()
            };
            let (mut ids, mut stop) = (start.clone(), "context");
            let mut numbers = 0;
            while ids.len() <= 16 {
                let key = espalier_worker::model::mix(11);
                let key = espalier_worker::model::mix(key ^ 5)
                    ^ espalier_worker::model::mix(ids.len() as u64);
                let next = sampling.choose(&logits(backbone.as_ref(), &ids), key);
                if next == 3 {
                    stop = "end_token";
                    break;
                }
                ids.push(next);
                numbers += 1;
            }
            let made = predictor.go_on(prompt, &[], (&sampling, 5)).unwrap();
            let (completion, tokens, why) = text(&made);
            assert_eq!((tokens, why.as_str()), (numbers, stop), "{family}");
            let again = predictor.go_on(prompt, &[], (&sampling, 5)).unwrap();
            assert_eq!(text(&again).0, completion);
        }
        let short = Sampling {
            max_new_tokens: 1,
            temperature: 1.0,
            ..Sampling::default()
        };
        let stops: Vec<String> = (0..20)
            .map(|number| text(&predictor.go_on(prompt, &[], (&short, number)).unwrap()).2)
            .collect();
        assert!(stops.iter().any(|stop| stop == "length"), "{stops:?}");
        let long = "apple ".repeat(30);
        let error = predictor.go_on(&long, &[], (&short, 0)).unwrap_err();
        assert!(error.to_string().contains("sees 16 at most"), "{error}");
        let error = predictor.go_on("", &[], (&short, 0)).unwrap_err();
        assert!(error.to_string().contains("no tokens"), "{error}");
    }
}

// Promise: prompts are read as far as the model sees, and texts for other heads as far as they were trained on.
#[test]
fn only_prompts_are_longer_than_training() {
    let folder = tempfile::tempdir().unwrap();
    exported(folder.path(), "gpt2");
    let predictor = Predictor::load(&folder.path().join("export")).unwrap();
    let long = "apple ".repeat(12);
    let input = predictor.text(&long).unwrap();
    assert_eq!(input.ids().unwrap().len(), 8);
    let short = Sampling {
        max_new_tokens: 1,
        ..Sampling::default()
    };
    assert!(predictor.go_on(&long, &[], (&short, 0)).is_ok());
}

// Promise: the export is a language model with a matrix of its own, says of what kind its numbers are, whatever its
// source's were, and is read back as one.
#[test]
fn exports_are_language_models() {
    for (family, name, kind) in [
        ("gpt2", "transformer.h.0.attn.c_attn.weight", "torch_dtype"),
        ("llama", "model.layers.0.self_attn.k_proj.weight", "dtype"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let before = exported(folder.path(), family);
        let dir = folder.path().join("export");
        let config: Value =
            serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["tie_word_embeddings"], false);
        assert_eq!(config[kind], "float32");
        let kinds = ["torch_dtype", "dtype"].map(|field| config.get(field).is_some());
        assert_ne!(kinds[0], kinds[1], "no field is added");
        let class = config["architectures"][0].as_str().unwrap();
        assert!(["GPT2LMHeadModel", "LlamaForCausalLM"].contains(&class));
        let names = Tensor::read_safetensors(dir.join("model.safetensors")).unwrap();
        assert_eq!(
            names.iter().filter(|(n, _)| n == "lm_head.weight").count(),
            1
        );
        assert!(names.iter().any(|(n, _)| n == name));
        let source = Source::open(&dir).unwrap();
        let options = Options {
            init: Init::Pretrained,
            seed: 0,
            tuning: Tuning::All,
            pooling: Pooling::Last,
            dropout: None,
            device: Device::Cpu,
        };
        let after = build(&source, &options).unwrap();
        let matrix = |backbone: &dyn Backbone| backbone.decoder().unwrap().vocabulary().unwrap();
        assert!((matrix(before.as_ref()) * 3.0).equal(&matrix(after.as_ref())));
    }
}

// Promise: what cannot be a language model's job is refused before training, with what to do.
#[test]
fn what_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let encoder = spec(dir, 1, |job| {
        job["tasks"] = json!([language(dir, "nothing")]);
    });
    let sources = Sources::load(&encoder).unwrap();
    let error = sources.profile(&encoder).unwrap_err().to_string();
    assert!(error.contains("predicts the next token"), "{error}");

    let refused = |job: &JobSpec| Sources::load(job).unwrap_err().to_string();
    let mut job = learn(dir, ("gpt2", "end_token"), false, 1);
    let config = dir.join("model/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("eos_token_id", "other")).unwrap();
    let error = refused(&job);
    assert!(error.contains("eos_token_id"), "{error}");

    std::fs::write(dir.join("short.jsonl"), r#"{"text": "apple pear"}"#).unwrap();
    let short = dir.join("short.jsonl").display().to_string();
    job.tasks[0].data.train = espalier_spec::job::Files::One(short);
    job.tasks[0].data.join = espalier_spec::job::Join::Nothing;
    let error = refused(&job);
    assert!(
        error.contains("2 tokens") && error.contains("needs 17"),
        "{error}"
    );
}
