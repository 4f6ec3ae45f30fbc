use super::*;
use tch::Kind;

fn block() -> Block {
    let specs = vec![
        ParamSpec::bias("b", &[3]),
        ParamSpec::weight("w", &[2, 3]),
        ParamSpec::weight("v", &[5]),
    ];
    Block::new("test", specs, true, Device::Cpu).unwrap()
}

// Promise: parameters and gradients are views of the flat buffers; autograd writes in place.
#[test]
fn autograd_accumulates_into_the_flat_gradient() {
    let mut block = block();
    assert_eq!(block.decay_range(), 0..32);
    block
        .load(
            "w",
            &Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).view([2, 3]),
        )
        .unwrap();
    assert_eq!(
        torch::data(block.flat()).unwrap()[..6],
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    );
    for _ in 0..2 {
        let loss = (block.param(0) * 2.0).sum(Kind::Float);
        loss.backward();
    }
    let grad = torch::data(block.grad().unwrap()).unwrap();
    assert_eq!(grad[..6], [4.0; 6]);
    assert!(grad[6..].iter().all(|&g| g == 0.0));
}

// Promise: a bound slot takes what backward accumulates, the others keep theirs.
#[test]
fn slots_keep_gradients_apart() {
    let mut block = block();
    block.set_slots(2).unwrap();
    for (slot, factor) in [(0, 2.0), (1, 3.0)] {
        block.bind(slot).unwrap();
        (block.param(0) * factor).sum(Kind::Float).backward();
    }
    for (slot, expected) in [(0, 2.0), (1, 3.0)] {
        let grad = torch::data(block.slot(slot).unwrap()).unwrap();
        assert_eq!(grad[..6], [expected; 6]);
    }
    block.zero_grad().unwrap();
    assert!(block.slot(1).unwrap().sum(Kind::Float).double_value(&[]) == 0.0);
}

#[test]
fn a_wrong_shape_names_the_parameter() {
    let error = block()
        .load("w", &Tensor::zeros([3, 2], (Kind::Float, Device::Cpu)))
        .unwrap_err();
    assert!(matches!(error, Error::Shape { name, .. } if name == "w"));
}
