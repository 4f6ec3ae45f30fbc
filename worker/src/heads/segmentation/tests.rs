use super::*;
use crate::metrics::Confusion;
use espalier_spec::job::Metric;
use serde_json::Value as Json;

/// PyTorch's numbers; `tests/golden/segmentation.py` made them.
fn golden() -> Vec<Json> {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/heads/segmentation/golden.json"
    );
    let text = std::fs::read_to_string(file);
    let text = text.expect("the numbers that tests/golden/segmentation.py prints");
    let all: Json = serde_json::from_str(&text).unwrap();
    all["cases"].as_array().unwrap().clone()
}

fn list(value: &Json) -> Vec<f32> {
    let numbers = value.as_array().unwrap().iter();
    numbers.map(|x| x.as_f64().unwrap() as f32).collect()
}

fn sizes<const N: usize>(value: &Json) -> [usize; N] {
    let sizes = value.as_array().unwrap().iter();
    let sizes: Vec<usize> = sizes.map(|x| x.as_u64().unwrap() as usize).collect();
    sizes.try_into().unwrap()
}

fn tensor(value: &Json, shape: [usize; 4]) -> Tensor {
    Tensor::from_slice(&list(value)).view(shape.map(|size| size as i64))
}

fn close(found: &Tensor, expected: &Tensor) {
    assert_eq!(found.size(), expected.size());
    let off = (found - expected).abs().max().double_value(&[]);
    assert!(off < 2e-6, "off by {off}: {found}, not {expected}");
}

fn head(classes: usize, weights: Option<Vec<f32>>) -> Segmentation {
    let names = (0..classes).map(|class| format!("class {class}"));
    Segmentation::new(names.collect(), weights, 255)
}

fn masks(classes: usize, size: [usize; 2], flat: &[u8]) -> Values {
    Values::Masks {
        classes,
        size,
        ignore: 255,
        values: flat.chunks(size[0] * size[1]).map(Arc::from).collect(),
    }
}

/// Outputs of every pixel, losses per sample, gradients on the map, IoU of each class, its mean and the share of
/// right pixels are PyTorch's, with class weights, ignored pixels and a sample that has no others.
#[test]
fn losses_and_figures_agree_with_pytorch() {
    for case in golden() {
        let [b, rows, columns, classes] = sizes(&case["shape"]);
        let size: [usize; 2] = sizes(&case["size"]);
        let places = tensor(&case["places"], [b, rows, columns, classes]).set_requires_grad(true);
        let outputs = upsampled(&places, size).unwrap();
        let expected = tensor(&case["logits"], [b, classes, size[0], size[1]]);
        close(&outputs, &expected);
        let weights = case["weights"].as_array().map(|_| list(&case["weights"]));
        let head = head(classes, weights);
        let flat: Vec<u8> = list(&case["masks"]).iter().map(|x| *x as u8).collect();
        let targets = masks(classes, size, &flat);
        let losses = head.loss(&outputs, &targets).unwrap();
        close(&losses, &Tensor::from_slice(&list(&case["losses"])));
        losses.sum(Kind::Float).backward();
        let gradients = tensor(&case["gradients"], [b, rows, columns, classes]);
        close(&places.grad(), &gradients);

        let found = head.decide(&outputs).unwrap();
        let (Values::Masks { values: truth, .. }, Values::Masks { values: found, .. }) =
            (&targets, &found)
        else {
            panic!("masks are masks");
        };
        let mut confusion = Confusion::new(classes);
        for (truth, found) in truth.iter().zip(found) {
            confusion.compare(truth, found, 255);
        }
        let iou = case["iou"].as_array().unwrap().iter().map(Json::as_f64);
        let near = |one: f64, other: f64| (one - other).abs() < 1e-12;
        for (found, expected) in confusion.iou().into_iter().zip(iou) {
            let same = match (found, expected) {
                (Some(found), Some(expected)) => near(found, expected),
                (found, expected) => found == expected,
            };
            assert!(same, "{found:?}, not {expected:?}");
        }
        let scores = confusion.scores();
        assert!(near(
            scores[&Metric::MeanIou],
            case["mean_iou"].as_f64().unwrap()
        ));
        assert!(near(
            scores[&Metric::Accuracy],
            case["accuracy"].as_f64().unwrap()
        ));
    }
}

/// Between the centres of two places outputs go straight from one to the other; beyond them they stay.
#[test]
fn outputs_are_brought_to_the_size_of_the_image() {
    let places = Tensor::from_slice(&[0_f32, 4.0]).view([1, 1, 2, 1]);
    let outputs = upsampled(&places, [2, 4]).unwrap();
    assert_eq!(outputs.size(), [1, 1, 2, 4]);
    let outputs = Vec::<f32>::try_from(outputs.flatten(0, -1)).unwrap();
    assert_eq!(outputs, [0.0, 1.0, 3.0, 4.0, 0.0, 1.0, 3.0, 4.0]);
}

/// A sample's loss is the mean over its pixels that have a class, and 0 if it has none.
#[test]
fn losses_are_means_over_pixels_with_a_class() {
    let outputs = Tensor::zeros([2, 2, 1, 2], (Kind::Float, Device::Cpu));
    let head = head(2, Some(vec![1.0, 3.0]));
    let losses = head.loss(&outputs, &masks(2, [1, 2], &[1, 255, 255, 255]));
    let losses = Vec::<f32>::try_from(losses.unwrap()).unwrap();
    assert!((losses[0] - 3.0 * 2_f32.ln()).abs() < 1e-6, "{losses:?}");
    assert_eq!(losses[1], 0.0);
}

/// Targets of another size, number or kind are refused, not read beyond; so are outputs of another shape.
#[test]
fn other_targets_are_refused() {
    let outputs = Tensor::zeros([1, 2, 1, 2], (Kind::Float, Device::Cpu));
    let head = head(2, None);
    for targets in [
        masks(2, [2, 1], &[0, 1]),
        masks(3, [1, 2], &[0, 1]),
        masks(2, [1, 2], &[0, 1, 0, 1]),
        Values::Numbers(vec![0.0]),
    ] {
        let error = head.loss(&outputs, &targets).unwrap_err().to_string();
        assert!(error.contains("1 masks of 1 x 2 pixels"), "{error}");
    }
    assert!(head.decide(&outputs.view([1, 2, 2])).is_err());
}

/// What a person is shown are the shares of the classes.
#[test]
fn shares_of_classes_are_shown() {
    let outputs =
        Tensor::from_slice(&[1_f32, 1.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0]).view([1, 2, 2, 2]);
    let head = head(2, None);
    assert_eq!(head.scores(&outputs).unwrap(), [0.75, 0.25]);
    assert_eq!(shares(&[0, 2, 2, 2], 3), [0.25, 0.0, 0.75]);
}
