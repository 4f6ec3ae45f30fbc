//! Residual networks from nothing.

use super::*;
use serde_json::json;

/// Height and width of images.
const SIDE: i64 = 32;

/// A network that begins at random, of two stages with `depth` layers each.
fn network(kind: &str, depth: usize) -> Box<dyn Backbone> {
    let config = json!({
        "model_type": "resnet", "num_channels": 3, "image_size": SIDE, "embedding_size": 32,
        "hidden_sizes": [32, 64], "depths": [depth, depth], "layer_type": kind
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let source = Source::open(dir.path()).unwrap();
    build(&source, &options(Init::Random, Pooling::Mean)).unwrap()
}

// Promise: convolutions of a random start are as wide as those of torchvision and transformers, and norms scale by 1
// but for the last of each residual layer.
#[test]
fn residual_networks_start_as_he_has_it() {
    let backbone = network("bottleneck", 2);
    let mut smaller = 0;
    for (name, tensor) in backbone.tensors().unwrap() {
        let size = tensor.size();
        if name.ends_with("convolution.weight") {
            let outputs = (size[0] * size[2] * size[3]) as f64;
            let wanted = (2.0 / outputs).sqrt();
            let found = tensor.std(false).double_value(&[]);
            // 256 numbers at least.
            assert!((found / wanted - 1.0).abs() < 0.2, "{name}: {found}");
        } else if name.ends_with("layer.2.normalization.weight") {
            smaller += 1;
            assert!(tensor.eq(0.5).all().int64_value(&[]) == 1, "{name}");
        } else if name.ends_with("normalization.weight") {
            assert!(tensor.eq(1.0).all().int64_value(&[]) == 1, "{name}");
        }
    }
    assert_eq!(smaller, 4);
}

// Promise: what a random network makes of an image is of a size that one can learn from, however deep it is.
#[test]
fn deep_networks_keep_the_scale() {
    let length = (3 * SIDE * SIDE) as usize;
    let pixels: Vec<f32> = (0..2 * length).map(|j| (1.7 * j as f32).sin()).collect();
    let samples: Vec<&[f32]> = pixels.chunks(length).collect();
    let batch = images(&samples, &[1, 2], [3, SIDE, SIDE], Device::Cpu).unwrap();
    for kind in ["basic", "bottleneck"] {
        for depth in [1, 16] {
            let backbone = network(kind, depth);
            let pass = forward(backbone.as_ref(), &batch, false);
            let features = pass.features().unwrap();
            let square = features.square().mean(Kind::Double).double_value(&[]);
            let found = square.sqrt();
            assert!(
                (0.01..10.0).contains(&found),
                "{kind}, {depth} layers a stage: {found}"
            );
        }
    }
}
