use super::*;
use espalier_spec::job::ContrastiveSpec;
use serde_json::json;
use std::collections::BTreeMap;

/// PyTorch's numbers; `tests/golden/heads.py` made them.
fn golden() -> Value {
    serde_json::from_str(include_str!("golden.json")).unwrap()
}

/// A list of numbers, or of lists of numbers, as a tensor.
fn tensor(value: &Value) -> Tensor {
    let flat = |row: &Value| -> Vec<f32> {
        row.as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap() as f32)
            .collect()
    };
    let rows = value.as_array().unwrap();
    if rows[0].is_array() {
        let all: Vec<f32> = rows.iter().flat_map(flat).collect();
        Tensor::from_slice(&all).view([rows.len() as i64, -1])
    } else {
        Tensor::from_slice(&flat(value))
    }
}

fn close(found: &Tensor, expected: &Value) {
    let expected = tensor(expected);
    assert_eq!(found.size(), expected.size());
    let off = (found - &expected).abs().max().double_value(&[]);
    let largest = expected.abs().max().double_value(&[]);
    // Those of 8 to 16 are 1e-6 apart in f32.
    assert!(
        off < 2e-6 * largest.max(1.0),
        "off by {off}: {found}, not {expected}"
    );
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|class| format!("class {class}")).collect()
}

fn task(head: &str, loss: Value) -> TaskSpec {
    let spec = json!({"name": "tone", "head": head, "data": {"train": "a.csv"}, "loss": loss});
    serde_json::from_value(spec).unwrap()
}

/// Losses per sample and their gradients are PyTorch's, with class weights and smoothing.
#[test]
fn losses_and_gradients_agree_with_pytorch() {
    let golden = golden();
    for kind in ["single_label", "multi_label", "regression", "ordinal"] {
        for case in golden[kind].as_array().unwrap() {
            let outputs = tensor(&case["logits"]).set_requires_grad(true);
            let classes = match kind {
                // One threshold lies between two classes.
                "ordinal" => outputs.size()[1] as usize + 1,
                _ => outputs.size()[1] as usize,
            };
            let given: BTreeMap<String, f64> = match case["weights"].as_array() {
                Some(w) => names(classes)
                    .into_iter()
                    .zip(w.iter().map(|w| w.as_f64().unwrap()))
                    .collect(),
                None => BTreeMap::new(),
            };
            let mut loss = json!({"label_smoothing": case["smoothing"]});
            if !given.is_empty() {
                loss["class_weights"] = json!({"given": given});
            }
            let head = build(&task(kind, loss), &names(classes), &vec![1; classes]).unwrap();
            let targets = case["targets"].as_array().unwrap();
            let targets = match head.kind() {
                HeadKind::SingleLabel => Values::Single {
                    classes,
                    values: targets.iter().map(|t| t.as_u64().unwrap() as u32).collect(),
                },
                HeadKind::MultiLabel => Values::Multi {
                    classes,
                    values: targets.iter().map(|t| t == 1).collect(),
                },
                HeadKind::Ordinal => Values::Ordered {
                    classes,
                    values: targets.iter().map(|t| t.as_u64().unwrap() as u32).collect(),
                },
                HeadKind::Tags
                | HeadKind::LabelEmbedding
                | HeadKind::CausalLm
                | HeadKind::Ctc
                | HeadKind::Entailment
                | HeadKind::Segmentation
                | HeadKind::Span
                | HeadKind::Ranking => panic!("tested apart"),
                HeadKind::Regression => {
                    Values::Numbers(targets.iter().map(|t| t.as_f64().unwrap()).collect())
                }
            };
            let losses = head.loss(&outputs, &targets).unwrap();
            close(&losses, &case["losses"]);
            losses.sum(Kind::Float).backward();
            close(&outputs.grad(), &case["gradients"]);
        }
    }
}

/// The contrastive loss and its gradient are those of the formula in PyTorch; a class of one sample
/// adds nothing, and a batch of one is no error.
#[test]
fn contrast_agrees_with_pytorch() {
    let golden = golden();
    for case in golden["contrastive"].as_array().unwrap() {
        let spec: ContrastiveSpec = serde_json::from_value(case["spec"].clone()).unwrap();
        let classes = case["classes"].as_array().unwrap().iter();
        let values: Vec<u32> = classes.map(|c| c.as_u64().unwrap() as u32).collect();
        let targets = |values: &[u32]| Values::Single {
            classes: 3,
            values: values.to_vec(),
        };
        let features = tensor(&golden["linear"]["features"]).set_requires_grad(true);
        let losses = contrastive(&features, &targets(&values), spec).unwrap();
        close(&losses, &case["losses"]);
        losses.sum(Kind::Float).backward();
        close(&features.grad(), &case["gradients"]);
        let one = contrastive(&features.narrow(0, 0, 1), &targets(&values[..1]), spec);
        assert_eq!(Vec::<f32>::try_from(one.unwrap()).unwrap(), [0.0]);
        assert!(contrastive(&features, &targets(&values[1..]), spec).is_err());
    }
}

/// Cosines with classes of several templates, their loss and the gradients of both sides and of the scale
/// are those of the formulas in PyTorch.
#[test]
fn nearest_descriptions_agree_with_pytorch() {
    let golden = golden();
    for case in golden["label_embedding"].as_array().unwrap() {
        let leaf = |name: &str| tensor(&case[name]).set_requires_grad(true);
        let (features, texts, scale) = (leaf("features"), leaf("texts"), leaf("scale"));
        let templates = case["templates"].as_u64().unwrap() as usize;
        let classes = class_vectors(&texts, templates).unwrap();
        let outputs = scaled(&cosines(&features, &classes).unwrap(), &scale).unwrap();
        let count = outputs.size()[1] as usize;
        let targets = case["targets"].as_array().unwrap().iter();
        let targets = Values::Single {
            classes: count,
            values: targets.map(|t| t.as_u64().unwrap() as u32).collect(),
        };
        let head = LabelEmbedding::new(names(count + 1), 0.0);
        let losses = head.loss(&outputs, &targets).unwrap();
        close(&losses, &case["losses"]);
        losses.sum(Kind::Float).backward();
        close(&features.grad(), &case["feature_gradients"]);
        close(&texts.grad(), &case["text_gradients"]);
        close(&scale.grad(), &case["scale_gradients"]);
    }
}

/// Dampened features are the same bits, and only their share of the gradient comes back.
#[test]
fn dampened_features_pass_on_a_part_of_the_gradient() {
    let spec = ContrastiveSpec {
        share: 0.75,
        ..ContrastiveSpec::default()
    };
    let features = Tensor::from_slice(&[0.1_f32, -3.0e-7, 1.0e6]).set_requires_grad(true);
    let same = dampened(&features, spec).unwrap();
    assert_eq!(Vec::<f32>::try_from(&same).unwrap(), [0.1, -3.0e-7, 1.0e6]);
    same.sum(Kind::Float).backward();
    let found = Vec::<f32>::try_from(features.grad()).unwrap();
    assert_eq!(found, [0.25; 3]);
}

/// The linear layer is PyTorch's, and the mask is applied to the features before it.
#[test]
fn linear_agrees_with_pytorch() {
    let case = &golden()["linear"];
    let (weight, bias) = (tensor(&case["weight"]), tensor(&case["bias"]));
    let linear = Linear {
        weight: &weight,
        bias: Some(&bias),
    };
    let features = tensor(&case["features"]);
    close(&linear.forward(&features, None).unwrap(), &case["plain"]);
    close(
        &linear
            .forward(&features, Some(&tensor(&case["mask"])))
            .unwrap(),
        &case["dropped"],
    );
    assert!(matches!(
        linear.forward(&weight.transpose(0, 1), None),
        Err(Error::Torch(_))
    ));
}

/// Decisions and shown scores: largest output and softmax, above one half and sigmoid, the number.
#[test]
fn decisions_and_scores() {
    let outputs = Tensor::from_slice(&[0.0_f32, 2.0, 2.0, -1.0, -3.0, 5.0]).view([2, 3]);
    let single = SingleLabel::new(names(3), None, 0.0);
    let expected = Values::Single {
        classes: 3,
        values: vec![1, 2],
    };
    assert_eq!(single.decide(&outputs).unwrap(), expected);
    let scores = single.scores(&outputs).unwrap();
    let row: f32 = scores[..3].iter().sum();
    assert!((row - 1.0).abs() < 1e-6 && (scores[1] / scores[0] - 2_f32.exp()).abs() < 1e-4);

    let multi = MultiLabel::new(names(3), None);
    let values = vec![false, true, true, false, false, true];
    assert_eq!(
        multi.decide(&outputs).unwrap(),
        Values::Multi { classes: 3, values }
    );
    assert!((multi.scores(&outputs).unwrap()[1] - 1.0 / (1.0 + (-2_f32).exp())).abs() < 1e-6);

    let column = outputs.view([6, 1]);
    let expected = Values::Numbers(vec![0.0, 2.0, 2.0, -1.0, -3.0, 5.0]);
    assert_eq!(Regression.decide(&column).unwrap(), expected);
    assert_eq!(
        Regression.scores(&column).unwrap(),
        [0.0, 2.0, 2.0, -1.0, -3.0, 5.0]
    );
}

/// One direction serves all thresholds, which begin in order; the class is the median, its
/// probabilities add up to 1 also where biases are out of order.
#[test]
fn ordered_classes() {
    let head = Ordinal::new(names(5));
    let [weight, bias] = parameters(1, "tone", head.shape(), 3);
    assert_eq!(
        (&weight.shape[..], &bias.shape[..]),
        (&[1, 3][..], &[4][..])
    );
    assert!(bias.values.windows(2).all(|pair| pair[0] > pair[1]));
    let view = |p: &Parameter| Tensor::from_slice(&p.values).view(&p.shape[..]);
    let (weight, bias) = (view(&weight), view(&bias));
    let linear = Linear {
        weight: &weight,
        bias: Some(&bias),
    };
    let outputs = linear.forward(&Tensor::ones([2, 3], (Kind::Float, Device::Cpu)), None);
    assert_eq!(outputs.unwrap().size(), [2, 4]);
    let rows = [2.0_f32, 1.0, -1.0, -3.0, -1.0, 1.0, -2.0, -4.0];
    let outputs = Tensor::from_slice(&rows).view([2, 4]);
    let expected = Values::Ordered {
        classes: 5,
        values: vec![2, 1],
    };
    assert_eq!(head.decide(&outputs).unwrap(), expected);
    let scores = head.scores(&outputs).unwrap();
    assert!(scores.iter().all(|score| *score >= 0.0));
    for row in scores.chunks(5) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
    let sigmoid = |z: f32| 1.0 / (1.0 + (-z).exp());
    assert!((scores[2] - (sigmoid(1.0) - sigmoid(-1.0))).abs() < 1e-6);
}

/// Balanced weights make every class weigh the same in sum, with mean 1; absent classes weigh 1.
#[test]
fn balanced_weights() {
    let spec = task("single_label", json!({"class_weights": "balanced"}));
    let counts = [60, 30, 0, 10];
    let weights = class_weights(&spec, &names(4), &counts).unwrap().unwrap();
    let sums: Vec<f32> = weights
        .iter()
        .zip(counts)
        .map(|(w, n)| w * n as f32)
        .collect();
    assert_eq!(weights[2], 1.0);
    for sum in [sums[0], sums[1], sums[3]] {
        assert!((sum - 100.0 / 3.0).abs() < 1e-4);
    }
}

/// First weights have the right spread and depend on seed and task only, biases are 0.
#[test]
fn first_values() {
    let shape = |outputs: usize| SingleLabel::new(names(outputs), None, 0.0).shape();
    let [weight, bias] = parameters(1, "tone", shape(20), 384);
    assert_eq!(
        (weight.name.as_str(), &weight.shape[..]),
        ("heads.tone.weight", &[20, 384][..])
    );
    assert_eq!(
        (bias.name.as_str(), &bias.shape[..]),
        ("heads.tone.bias", &[20][..])
    );
    assert_eq!(bias.values, [0.0; 20]);
    let n = weight.values.len() as f32;
    let mean = weight.values.iter().sum::<f32>() / n;
    let std = (weight.values.iter().map(|v| v * v).sum::<f32>() / n).sqrt();
    assert!(
        mean.abs() < 1e-3 && (std - 0.02).abs() < 6e-4,
        "{mean} {std}"
    );
    assert_eq!(parameters(1, "tone", shape(20), 384)[0], weight);
    assert_eq!(
        parameters(1, "tone", shape(3), 7)[0].values[..],
        weight.values[..21]
    );
    assert_ne!(
        parameters(2, "tone", shape(20), 384)[0].values,
        weight.values
    );
    assert_ne!(
        parameters(1, "topic", shape(20), 384)[0].values,
        weight.values
    );
}

/// The exported fields are those that `transformers` reads.
#[test]
fn config_fields() {
    let config = SingleLabel::new(vec!["neg".into(), "pos".into()], None, 0.0).config();
    let expected = json!({
        "problem_type": "single_label_classification", "num_labels": 2,
        "id2label": {"0": "neg", "1": "pos"}, "label2id": {"neg": 0, "pos": 1},
    });
    assert_eq!(Value::Object(config), expected);
    assert_eq!(Regression.config()["num_labels"], 1);
    assert_eq!(
        MultiLabel::new(names(2), None).config()["problem_type"],
        "multi_label_classification"
    );
}

/// Settings that can't be are refused by task, field and value.
#[test]
fn bad_settings() {
    let refused = |head: &str, loss: Value| {
        build(&task(head, loss), &names(2), &[1, 1])
            .err()
            .unwrap()
            .to_string()
    };
    assert_eq!(
        refused(
            "single_label",
            json!({"class_weights": {"given": {"clas 1": 2.0}}})
        ),
        "task tone: loss.class_weights names `clas 1`, which is not in the label set (did you mean `class 1`?)"
    );
    assert_eq!(
        refused(
            "multi_label",
            json!({"class_weights": {"given": {"class 0": -1.0}}})
        ),
        "task tone: loss.class_weights gives `class 0` the weight -1; expected a finite number of at least 0"
    );
    assert_eq!(
        refused("single_label", json!({"label_smoothing": 1.0})),
        "task tone: loss.label_smoothing is 1; expected at least 0 and below 1"
    );
    assert_eq!(
        refused("multi_label", json!({"label_smoothing": 0.1})),
        "task tone: loss.label_smoothing applies to single_label heads, but this is a multi_label head; remove it"
    );
    assert_eq!(
        refused("ordinal", json!({"class_weights": "balanced"})),
        "task tone: loss.class_weights applies to single_label and multi_label heads, but this is a ordinal head; remove it"
    );
    assert_eq!(
        refused("regression", json!({"class_weights": "balanced"})),
        "task tone: loss.class_weights applies to single_label and multi_label heads, but this is a regression head; remove it"
    );
}

/// Outputs and targets that don't fit are errors, never a panic inside torch.
#[test]
fn shapes_that_do_not_fit() {
    let head = SingleLabel::new(names(3), None, 0.1);
    let outputs = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
    let single = |values: Vec<u32>| Values::Single { classes: 3, values };
    assert!(head.loss(&outputs, &single(vec![0, 2])).is_ok());
    for targets in [
        single(vec![0]),
        single(vec![0, 3]),
        Values::Numbers(vec![0.0, 1.0]),
    ] {
        let found = head.loss(&outputs, &targets).unwrap_err().to_string();
        assert!(
            found.starts_with("targets don't fit the head: expected 2 of one in 3 classes, found"),
            "{found}"
        );
    }
    let found = head
        .decide(&outputs.transpose(0, 1))
        .unwrap_err()
        .to_string();
    assert_eq!(
        found,
        "outputs don't fit the head: expected shape [samples, 3], found [3, 2]"
    );
    let empty = Tensor::zeros([0, 3], (Kind::Float, Device::Cpu));
    assert_eq!(head.loss(&empty, &single(vec![])).unwrap().size(), [0]);
}

/// Cosines with given vectors of classes, after the learned map, their loss and the gradients of features, map
/// and scale are those of the formulas, which `tests/golden/zero_shot.py` writes out.
#[test]
fn nearest_vectors_agree_with_the_formulas() {
    let golden: Value = serde_json::from_str(include_str!("golden_zero_shot.json")).unwrap();
    let near = |found: Tensor, expected: &Value| {
        let off = (found - tensor(expected)).abs().max().double_value(&[]);
        assert!(off < 2e-5, "off by {off}");
    };
    for case in golden["bilinear"].as_array().unwrap() {
        let leaf = |name: &str| tensor(&case[name]).set_requires_grad(true);
        let (features, map, scale) = (leaf("features"), leaf("weight"), leaf("scale"));
        let classes = unit(&tensor(&case["vectors"])).unwrap();
        let mapped = features.matmul(&map.transpose(0, 1));
        let outputs = scaled(&cosines(&mapped, &classes).unwrap(), &scale).unwrap();
        let count = outputs.size()[1] as usize;
        let targets = case["targets"].as_array().unwrap().iter();
        let targets = Values::Single {
            classes: count,
            values: targets.map(|t| t.as_u64().unwrap() as u32).collect(),
        };
        let head = LabelEmbedding::new(names(count), 0.0);
        let losses = head.loss(&outputs, &targets).unwrap();
        near(losses.shallow_clone(), &case["losses"]);
        losses.sum(Kind::Float).backward();
        near(features.grad(), &case["feature_gradients"]);
        near(map.grad(), &case["weight_gradients"]);
        near(scale.grad(), &case["scale_gradients"]);
    }
}

/// The loss of pairs and its gradient are those of the formula; the best pair decides, and several templates
/// count by their mean.
#[test]
fn pairs_agree_with_the_formula() {
    let golden: Value = serde_json::from_str(include_str!("golden_zero_shot.json")).unwrap();
    let head = Entailment::new(names(3));
    assert_eq!(head.outputs(), 1);
    for case in golden["entailment"].as_array().unwrap() {
        let logits = tensor(&case["logits"]).set_requires_grad(true);
        let targets = case["targets"].as_array().unwrap().iter();
        let values: Vec<u32> = targets.map(|t| t.as_u64().unwrap() as u32).collect();
        let classes = logits.size()[1] as usize;
        let losses = head
            .loss(&logits, &Values::Single { classes, values })
            .unwrap();
        close(&losses, &case["losses"]);
        losses.sum(Kind::Float).backward();
        close(&logits.grad(), &case["gradients"]);
    }
    let values = vec![0, 2];
    let wrong = Values::Single { classes: 2, values };
    assert!(
        head.loss(&tensor(&json!([[0.0, 1.0], [1.0, 0.0]])), &wrong)
            .is_err()
    );
    // Two classes in two templates each, of two texts.
    let pairs = [1.0_f32, 3.0, 0.0, 1.0, -1.0, 1.0, 2.0, 0.0];
    let over = over_templates(&pairs, (2, 2)).unwrap();
    assert_eq!(
        Vec::<f32>::try_from(over.flatten(0, -1)).unwrap(),
        [2.0, 0.5, 0.0, 1.0]
    );
    let decided = Values::Single {
        classes: 2,
        values: vec![0, 1],
    };
    assert_eq!(head.decide(&over).unwrap(), decided);
}

/// The map into the space of vectors is a function of seed, task and width; vectors are kept as they are, and
/// not trained.
#[test]
fn vectors_are_kept_beside_their_map() {
    let vectors = [vec![0.6, 0.8, 0.0], vec![0.0, 0.0, 1.0]];
    let [map, kept] = space(3, "bird", &vectors, 5);
    assert_eq!(
        (map.name.as_str(), &map.shape[..]),
        ("heads.bird.weight", &[3, 5][..])
    );
    assert!(map.trained && map.decays);
    assert_eq!(
        (kept.name.as_str(), &kept.shape[..]),
        ("heads.bird.vectors", &[2, 3][..])
    );
    assert_eq!(kept.values, vectors.concat());
    assert!(!kept.trained && !kept.decays);
    let [again, _] = space(3, "bird", &vectors[..1], 5);
    assert_eq!(map.values, again.values);
}
