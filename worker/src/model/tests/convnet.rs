//! The small network from nothing.

use super::*;
use serde_json::json;

/// A network of this configuration that begins at random.
fn network(config: &Value) -> Result<Box<dyn Backbone>, Error> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let source = Source::open(dir.path())?;
    build(&source, &options(Init::Random, Pooling::Mean))
}

/// LeNet (LeCun et al. 1998), two convolutions without padding and a layer of 500, as the authors of CDAN have it.
fn lenet(channel_dropout: f64) -> Value {
    json!({
        "model_type": "espalier-convnet", "num_channels": 1, "image_size": 28, "hidden_sizes": [20, 50],
        "kernel_size": 5, "padding": 0, "max_pool": true, "dense_size": 500, "norm": false,
        "hidden_act": "relu", "channel_dropout": channel_dropout,
    })
}

// Promise: halving by strides and by pooling leaves what the configuration says, of odd sides too.
#[test]
fn small_networks_have_the_size_they_say() {
    let pixels = [0.5; 70];
    let batch = images(&[&pixels], &[1], [2, 5, 7], Device::Cpu).unwrap();
    for (max_pool, columns) in [(false, 4), (true, 2)] {
        for dense in [None, Some(6)] {
            let dir = tempfile::tempdir().unwrap();
            let config = serde_json::json!({
                "model_type": "espalier-convnet", "num_channels": 2, "image_size": [5, 7],
                "hidden_sizes": [3, 4], "kernel_size": 5, "max_pool": max_pool, "dense_size": dense,
            });
            let source = directory(dir.path(), &config);
            let backbone = build(&source, &options(Init::Random, Pooling::Mean)).unwrap();
            let features = forward(backbone.as_ref(), &batch, false)
                .features()
                .unwrap();
            assert_eq!(features.size(), [1, dense.unwrap_or(4)]);
            let frames = backbone.frames().map(Frames::count);
            assert_eq!(frames, dense.is_none().then_some(columns));
        }
    }
}

// Promise: LeNet's layers have LeNet's sizes, begin as wide as PyTorch's and give nothing below 0.
#[test]
fn lenet_is_lenet() {
    let backbone = network(&lenet(0.0)).unwrap();
    let blocks = backbone.blocks().iter();
    let params = blocks.flat_map(Block::model_names).collect::<Vec<_>>();
    let sizes = |name: &str| {
        params
            .iter()
            .find(|(own, _)| own == name)
            .unwrap()
            .1
            .clone()
    };
    assert_eq!(params.len(), 6, "{params:?}");
    assert_eq!(sizes("stage.1.conv.weight"), [50, 20, 5, 5]);
    assert_eq!(sizes("dense.weight"), [500, 800]);
    let dense = backbone.blocks().last().unwrap().param(0);
    let wanted = 1.0 / f64::sqrt(3.0 * 800.0);
    let found = dense.std(false).double_value(&[]);
    assert!((found / wanted - 1.0).abs() < 0.01, "{found}, not {wanted}");
    let pixels: Vec<f32> = (0..784).map(|i| (0.1 * i as f32).sin()).collect();
    let batch = images(&[&pixels], &[1], [1, 28, 28], Device::Cpu).unwrap();
    let features = forward(backbone.as_ref(), &batch, false);
    let features = features.features().unwrap();
    assert_eq!(features.size(), [1, 500]);
    assert!(features.min().double_value(&[]) >= 0.0);
}

// Promise: training drops channels of the last convolution as wholes, those of a sample by its key; evaluation
// drops none.
#[test]
fn channels_are_dropped_as_wholes() {
    let mut config = lenet(0.5);
    config.as_object_mut().unwrap().remove("dense_size");
    let backbone = network(&config).unwrap();
    let pixels: Vec<f32> = (0..784).map(|i| (0.1 * i as f32).sin()).collect();
    let samples = [&pixels[..], &pixels[..]];
    let batch = images(&samples, &[1, 2], [1, 28, 28], Device::Cpu).unwrap();
    let means = |train| {
        forward(backbone.as_ref(), &batch, train)
            .features()
            .unwrap()
    };
    let (all, some) = (means(false), means(true));
    for (place, part) in [0, 1].map(|sample| (sample, some.get(sample))) {
        let dropped = part.eq(0.0).sum(Kind::Int64).int64_value(&[]);
        assert!((10..40).contains(&dropped), "{dropped} of 50");
        // Those that stay are twice as large.
        let doubled: Tensor = all.get(place) * 2.0;
        let far: Tensor = (&part - doubled).abs() * part.gt(0.0);
        assert!(far.max().double_value(&[]) < 1e-5);
    }
    assert!((some.get(0) - some.get(1)).abs().max().double_value(&[]) > 0.0);
}

// Promise: features are means, and a job that asks for others is told so.
#[test]
fn other_poolings_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), lenet(0.0).to_string()).unwrap();
    let source = Source::open(dir.path()).unwrap();
    for pooling in [Pooling::Cls, Pooling::Max, Pooling::Last, Pooling::Pooler] {
        let built = build(&source, &options(Init::Random, pooling));
        let said = built.unwrap_err().to_string();
        let expected = "but espalier-convnet has only mean";
        assert!(said.contains(expected), "{said}");
    }
}

// Promise: a network of which nothing is left, or that drops everything, is refused with what is wrong.
#[test]
fn networks_that_can_not_be() {
    for (field, value, said) in [
        (
            "hidden_sizes",
            json!([4, 4, 4, 4]),
            "nothing of image_size is left",
        ),
        ("padding", json!(-1), "padding must be 0 or more"),
        ("channel_dropout", json!(1.0), "below 1"),
        ("hidden_act", json!("swish"), "swish"),
    ] {
        let mut config = lenet(0.0);
        config[field] = value;
        let error = network(&config).unwrap_err().to_string();
        assert!(error.contains(said), "{field}: {error}");
    }
}
