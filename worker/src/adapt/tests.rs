use super::*;
use serde_json::{Value, json};
use tch::Device;

/// PyTorch's numbers; `tests/golden/adaptation.py` made them.
fn golden() -> Value {
    serde_json::from_str(include_str!("golden.json")).unwrap()
}

/// A list of numbers, or of lists of numbers, as a tensor.
fn tensor(value: &Value) -> Tensor {
    let flat = |row: &Value| -> Vec<f32> {
        let numbers = row.as_array().unwrap().iter();
        numbers.map(|x| x.as_f64().unwrap() as f32).collect()
    };
    let rows = value.as_array().unwrap();
    if rows[0].is_array() {
        let all: Vec<f32> = rows.iter().flat_map(flat).collect();
        Tensor::from_slice(&all).view([rows.len() as i64, -1])
    } else {
        Tensor::from_slice(&flat(value))
    }
}

#[track_caller]
fn close(found: &Tensor, expected: &Value, what: &str) {
    let expected = tensor(expected);
    let found = match found.defined() {
        true => found.shallow_clone(),
        false => expected.zeros_like(),
    };
    assert_eq!(found.size(), expected.size(), "{what}");
    let off = (&found - &expected).abs().max().double_value(&[]);
    assert!(off < 5e-6, "{what}: off by {off}: {found}, not {expected}");
}

fn spec(method: &str, params: &Value) -> AdaptationSpec {
    let spec = json!({"method": method, "target": {"train": "t.csv"}, "params": params});
    serde_json::from_value(spec).unwrap()
}

/// A method on `features` features and `classes` classes, with its defaults.
fn method(name: &str, features: usize, classes: usize) -> Box<dyn Method> {
    build("t", &spec(name, &json!({})), features, classes).unwrap()
}

// Promise: every method's loss and its gradients, with respect to features, outputs and its own layers,
// are PyTorch's.
#[test]
fn losses_and_gradients_agree_with_pytorch() {
    let golden = golden();
    let mut checked = 0;
    for case in golden["cases"].as_array().unwrap() {
        let name = case["method"].as_str().unwrap();
        let leaf = |value: &Value| tensor(value).set_requires_grad(true);
        let seen: Vec<Tensor> = golden["seen"]
            .as_array()
            .unwrap()
            .iter()
            .map(leaf)
            .collect();
        let layers = case["own"].as_array().unwrap();
        let own: Vec<[Tensor; 2]> = layers.iter().map(|l| [leaf(&l[0]), leaf(&l[1])]).collect();
        let (features, classes) = (seen[0].size()[1] as usize, seen[2].size()[1] as usize);
        let method = build("t", &spec(name, &case["params"]), features, classes).unwrap();
        let shapes: Vec<Vec<i64>> = method
            .layers()
            .iter()
            .map(|layer| vec![layer.outputs as i64, layer.inputs as i64])
            .collect();
        let given: Vec<Vec<i64>> = own.iter().map(|[weight, _]| weight.size()).collect();
        assert_eq!(shapes, given, "{name}");
        let linear = linear(&own);
        let pairs = Pairs {
            source: &seen[0],
            target: &seen[1],
            source_logits: &seen[2],
            target_logits: &seen[3],
            strength: golden["strength"].as_f64().unwrap(),
            context: Context::eval(),
            keys: &[],
        };
        let loss = method.loss(&pairs, &linear).unwrap();
        let expected = case["loss"].as_f64().unwrap();
        let found = loss.double_value(&[]);
        assert!(
            (found - expected).abs() < 5e-6,
            "{name}: {found}, not {expected}"
        );
        loss.backward();
        let gradients = case["gradients"].as_array().unwrap();
        for (x, expected) in seen.iter().zip(gradients) {
            close(&x.grad(), expected, name);
        }
        let gradients = case["own_gradients"].as_array().unwrap();
        for ([weight, bias], expected) in own.iter().zip(gradients) {
            close(&weight.grad(), &expected[0], name);
            close(&bias.grad(), &expected[1], name);
        }
        checked += 1;
    }
    assert_eq!(checked, 14);
}

fn random(rows: i64, columns: i64, seed: i64) -> Tensor {
    tch::manual_seed(seed);
    Tensor::randn([rows, columns], (Kind::Float, Device::Cpu))
}

/// Weights and biases of layers at first.
fn first(layers: &[Layer]) -> Vec<[Tensor; 2]> {
    let layer = |layer: &Layer| {
        let (outputs, inputs) = (layer.outputs as i64, layer.inputs as i64);
        let bias = Tensor::zeros([outputs], (Kind::Float, Device::Cpu));
        [random(outputs, inputs, 5) * layer.deviation(), bias]
    };
    layers.iter().map(layer).collect()
}

fn linear(own: &[[Tensor; 2]]) -> Vec<Linear<'_>> {
    own.iter()
        .map(|[weight, bias]| Linear {
            weight,
            bias: Some(bias),
        })
        .collect()
}

// Promise: domains that are the same have no distance, others have one; a single pair is no error.
#[test]
fn equal_domains_have_no_distance() {
    for name in ["mmd", "jan", "coral"] {
        let method = method(name, 6, 3);
        let loss = |source: &Tensor, target: &Tensor, logits: &Tensor| {
            let pairs = Pairs {
                source,
                target,
                source_logits: logits,
                target_logits: logits,
                strength: 1.0,
                context: Context::eval(),
                keys: &[],
            };
            method.loss(&pairs, &[]).unwrap().double_value(&[])
        };
        for seed in 0..8 {
            let (x, logits) = (random(9, 6, seed), random(9, 3, seed + 100));
            let same = loss(&x, &x, &logits);
            assert!(same.abs() < 1e-6, "{name}: {same}");
            let other = loss(&x, &(&x * 2.0 + 1.0), &logits);
            assert!(other > 1e-2, "{name}: {other}");
        }
        let (x, y) = (random(1, 6, 1), random(1, 6, 2));
        assert!(loss(&x, &y, &random(1, 3, 3)).is_finite(), "{name}");
    }
}

// Promise: nothing but finite numbers comes of features that are all alike, of one pair, and of
// predictions that are as sure as can be.
#[test]
fn extremes_stay_finite() {
    let sure = Tensor::from_slice(&[80f32, 0.0, 0.0, 80.0]).view([2, 2]);
    for info in espalier_spec::adaptation::METHODS {
        if info.name == "adabn" {
            continue;
        }
        let method = method(info.name, 3, 2);
        for rows in [1, 2] {
            let x = Tensor::ones([rows, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let logits = sure.narrow(0, 0, rows).detach().set_requires_grad(true);
            let own = first(&method.layers());
            let own = linear(&own);
            let pairs = Pairs {
                source: &x,
                target: &x,
                source_logits: &logits,
                target_logits: &logits,
                strength: 0.5,
                context: Context::eval(),
                keys: &[],
            };
            let loss = method.loss(&pairs, &own).unwrap();
            loss.backward();
            for x in [&loss, &x.grad(), &logits.grad()] {
                let finite = !x.defined() || bool::try_from(x.isfinite().all()).unwrap();
                assert!(finite, "{}, {rows} pairs: {x}", info.name);
            }
        }
    }
}

// Promise: the schedule is the paper's, 0 at first and 1 at its end; without one the strength is full.
#[test]
fn strength_follows_its_schedule() {
    assert_eq!(strength(0, 100), 0.0);
    assert!((strength(50, 100) - (2.0 / (1.0 + (-5.0f64).exp()) - 1.0)).abs() < 1e-15);
    assert!(strength(100, 100) > 0.9999 && strength(300, 100) == strength(100, 100));
    assert_eq!(strength(0, 0), 1.0);
}

// Promise: that a backbone has no batch norms is said plainly.
#[test]
fn adabn_needs_batch_normalisation() {
    let error = build("digit", &spec("adabn", &json!({})), 4, 2).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("task digit") && error.contains("no batch normalisation"),
        "{error}"
    );
}

// Promise: what a classifier of domains drops is a function of step and sample, not of the place of a sample; it
// drops nothing outside of training, and nothing by default.
#[test]
fn dropout_follows_samples() {
    let (x, y) = (random(4, 6, 1), random(4, 6, 2));
    let (said_x, said_y) = (random(4, 3, 3), random(4, 3, 4));
    for name in ["dann", "cdan"] {
        let drops = json!({"dropout": 0.5, "hidden": 64});
        let drops = build("t", &spec(name, &drops), 6, 3).unwrap();
        let plain = build("t", &spec(name, &json!({"hidden": 64})), 6, 3).unwrap();
        let own = first(&plain.layers());
        let own = linear(&own);
        let loss = |method: &dyn Method, context: Context, order: [i64; 4]| {
            let order_4 = Tensor::from_slice(&order);
            let pick = |x: &Tensor| x.index_select(0, &order_4);
            let keys = [order, order.map(|place| place + 10)].concat();
            let keys: Vec<u64> = keys.iter().map(|key| key.unsigned_abs()).collect();
            let pairs = Pairs {
                source: &pick(&x),
                target: &pick(&y),
                source_logits: &pick(&said_x),
                target_logits: &pick(&said_y),
                strength: 1.0,
                context,
                keys: &keys,
            };
            method.loss(&pairs, &own).unwrap().double_value(&[])
        };
        let at = |step| Context {
            train: true,
            seed: 7,
            step,
            ..Context::default()
        };
        let once = loss(drops.as_ref(), at(3), [0, 1, 2, 3]);
        let turned = loss(drops.as_ref(), at(3), [2, 0, 3, 1]);
        assert!((once - turned).abs() < 1e-6, "{name}: {once}, {turned}");
        let next = loss(drops.as_ref(), at(4), [0, 1, 2, 3]);
        let whole = loss(plain.as_ref(), at(3), [0, 1, 2, 3]);
        assert!(
            once != next && once != whole,
            "{name}: {once}, {next}, {whole}"
        );
        let still = loss(drops.as_ref(), Context::eval(), [0, 1, 2, 3]);
        assert_eq!(still, whole, "{name}");
    }
}

/// Numbers that no other test has a hand in, unlike those that libtorch draws for all threads.
fn numbers(rows: i64, columns: i64, seed: i64) -> Tensor {
    let number = |place: i64| ((place + 1) as f32 * (0.7 + seed as f32 * 0.37)).sin();
    let all: Vec<f32> = (0..rows * columns).map(number).collect();
    Tensor::from_slice(&all).view([rows, columns])
}

/// Six samples of the source, or those of them at `places`, and six of the target, through an adaptation.
fn between(how: &Adaptation, places: &[i64], files: &[usize], own: &[[Tensor; 2]]) -> f64 {
    let index = Tensor::from_slice(places);
    let keys: Vec<u64> = places.iter().map(|place| place.unsigned_abs()).collect();
    let source = Domain {
        features: &numbers(6, 6, 1).index_select(0, &index),
        logits: &numbers(6, 3, 2).index_select(0, &index),
        keys: &keys,
    };
    let target = Domain {
        features: &(numbers(6, 6, 3) * 2.0 + 1.0),
        logits: &numbers(6, 3, 4),
        keys: &[10, 11, 12, 13, 14, 15],
    };
    let context = Context {
        train: true,
        step: 9,
        ..Context::default()
    };
    let found = how.loss(source, target, files, &linear(own), &context);
    found.unwrap().loss.double_value(&[])
}

// Promise: sources that are kept apart have the mean of the losses between each of them and the target, each by
// layers of its own; a source without samples does not count, and a single one is the source as a whole.
#[test]
fn sources_apart_have_the_mean_of_their_losses() {
    let cases = [
        ("mmd", json!({})),
        ("jan", json!({})),
        ("coral", json!({})),
        ("dann", json!({"dropout": 0.5})),
        ("cdan", json!({"entropy": true})),
    ];
    for (name, params) in cases {
        let together = spec(name, &params);
        let apart = AdaptationSpec {
            sources: Sources::Apart,
            ..together.clone()
        };
        let how =
            |spec: &AdaptationSpec, files| Adaptation::new("t", spec, (6, 3), 100, files).unwrap();
        let (whole, one, two) = (how(&together, 2), how(&apart, 1), how(&apart, 2));
        assert_eq!(one.layers(), whole.layers(), "{name}");
        assert_eq!(two.layers().len(), 2 * whole.layers().len(), "{name}");
        let mut own = first(&whole.layers());
        let second = own.iter().map(|[weight, bias]| [weight * -0.5, bias + 0.1]);
        let second: Vec<[Tensor; 2]> = second.collect();
        let all = [0, 1, 2, 3, 4, 5];
        let single = between(&whole, &all, &[0; 6], &own);
        assert_eq!(between(&one, &all, &[0; 6], &own), single, "{name}");
        // As above: its first source has all samples.
        let places = ([0, 2, 3, 5], [1, 4]);
        let expected = [
            between(&whole, &places.0, &[0; 4], &own),
            between(&whole, &places.1, &[0; 2], &second),
        ];
        own.extend(second);
        assert_eq!(between(&two, &all, &[0; 6], &own), single, "{name}");
        let found = between(&two, &all, &[0, 1, 0, 0, 1, 0], &own);
        let mean = expected.iter().sum::<f64>() / 2.0;
        assert!((found - mean).abs() < 1e-6, "{name}: {found}, not {mean}");
        let apart = (expected[0] - expected[1]).abs();
        assert!(apart > 1e-5, "{name}: {expected:?}");
    }
}

// Promise: a classifier of domains is not told by their sizes: more samples of the target than of the source are
// no reason to guess the target.
#[test]
fn domains_of_other_sizes_weigh_the_same() {
    let method = method("dann", 6, 3);
    let own = first(&method.layers());
    // All samples alike: what is said of them is a matter of weights alone.
    let ones = |rows: i64| Tensor::ones([rows, 6], (Kind::Float, Device::Cpu));
    let logits = |rows: i64| Tensor::ones([rows, 3], (Kind::Float, Device::Cpu));
    let loss = |source: i64, target: i64| {
        let pairs = Pairs {
            source: &ones(source),
            target: &ones(target),
            source_logits: &logits(source),
            target_logits: &logits(target),
            strength: 1.0,
            context: Context::eval(),
            keys: &[],
        };
        let loss = method.loss(&pairs, &linear(&own)).unwrap();
        loss.double_value(&[])
    };
    let (even, uneven) = (loss(4, 4), loss(2, 7));
    assert!((even - uneven).abs() < 1e-6, "{even}, {uneven}");
}

// Promise: CDAN+E as its authors wrote it: half the sum over domains of their losses weighed by 1 + exp(-H) over the
// sum of these, whose gradient comes to the entropies reversed.
#[test]
fn entropy_is_reversed_as_the_authors_have_it() {
    let build = |params: Value| build("t", &spec("cdan", &params), 6, 3).unwrap();
    let method = build(json!({"entropy": true, "reversed_entropy": true}));
    let own = first(&method.layers());
    let own = linear(&own);
    let leaf = |x: Tensor| x.set_requires_grad(true);
    let seen = || [leaf(numbers(4, 3, 2) * 2.0), leaf(numbers(4, 3, 4) * 0.5)];
    let (x, y) = (numbers(4, 6, 1), numbers(4, 6, 3));
    let [said_x, said_y] = seen();
    let pairs = Pairs {
        source: &x,
        target: &y,
        source_logits: &said_x,
        target_logits: &said_y,
        strength: 0.6,
        context: Context::eval(),
        keys: &[],
    };
    let found = method.loss(&pairs, &own).unwrap();
    found.backward();
    // The same without a reversal.
    let plain = seen();
    let [source, target] = [(&x, &plain[0], 1.0), (&y, &plain[1], 0.0)].map(|(x, said, domain)| {
        let likely = said.softmax(-1, Kind::Float);
        let entropy = -(&likely * likely.log()).sum_dim_intlist(&[1i64][..], false, Kind::Float);
        let sure = entropy.neg().exp() + 1.0;
        let joint = likely
            .detach()
            .unsqueeze(2)
            .bmm(&x.unsqueeze(1))
            .flatten(1, 2);
        let judged = discriminator::through(&joint, &own, |x, _| Ok(x))
            .unwrap()
            .sigmoid();
        let right = match domain == 1.0 {
            true => judged,
            false => -judged + 1.0,
        };
        let losses = -right.log().squeeze_dim(1);
        (losses * &sure).sum(Kind::Float) / sure.detach().sum(Kind::Float)
    });
    let expected = (source + target) * 0.5;
    expected.backward();
    let off = (&found - &expected).abs().double_value(&[]);
    assert!(off < 1e-6, "{found}, not {expected}");
    for (found, plain) in [&said_x, &said_y].into_iter().zip(&plain) {
        let (found, plain) = (found.grad(), plain.grad() * -0.6);
        assert!(plain.abs().max().double_value(&[]) > 1e-5, "{plain}");
        let off = (&found - &plain).abs().max().double_value(&[]);
        assert!(off < 1e-7, "{found}, not {plain}");
    }
}
