//! Names, shapes and first values of a head's parameters.

use super::Shape;
use std::f64::consts::TAU;

/// Standard deviation of the first weights, as in BERT.
const STD: f64 = 0.02;

/// One parameter of a head.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name in the block of heads, such as `heads.tone.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<i64>,
    /// Its first values, row-major.
    pub values: Vec<f32>,
    /// Whether weight decay applies.
    pub decays: bool,
    /// Whether it is trained.
    pub trained: bool,
}

/// The parameters of the head of `task`: weight `[directions, hidden]` (normal with standard deviation
/// 0.02) and bias `[outputs]`, or scale `[1]` and calibration `[1]`, which begin as `head` says. The values
/// are a function of the arguments, whatever other tasks the job has.
#[must_use]
pub fn parameters(seed: u64, task: &str, head: Shape, hidden: usize) -> [Parameter; 2] {
    let name = format!("heads.{task}");
    match head {
        Shape::Linear { directions, biases } => {
            let [weight, bias] = layer(seed, &name, (directions, hidden), STD);
            let shape = vec![size(biases.len())];
            let values = biases;
            [
                weight,
                Parameter {
                    shape,
                    values,
                    ..bias
                },
            ]
        }
        Shape::Cosine { scale, calibration } => [
            number(format!("{name}.scale"), scale, true),
            self::calibration(task, calibration),
        ],
    }
}

/// What is taken from the outputs of classes that a task was trained on, `[1]`; it is not trained itself.
#[must_use]
pub fn calibration(task: &str, value: f32) -> Parameter {
    number(format!("heads.{task}.calibration"), value, false)
}

fn number(name: String, value: f32, trained: bool) -> Parameter {
    Parameter {
        name,
        shape: vec![1],
        values: vec![value],
        decays: false,
        trained,
    }
}

/// The parameters `<name>.weight` `[outputs, inputs]` (normal with standard deviation `deviation`) and
/// `<name>.bias` `[outputs]` (0) of a linear layer, a function of the arguments.
#[must_use]
pub fn layer(
    seed: u64,
    name: &str,
    (outputs, inputs): (usize, usize),
    deviation: f64,
) -> [Parameter; 2] {
    let name = |part: &str| format!("{name}.{part}");
    [
        Parameter {
            name: name("weight"),
            shape: vec![size(outputs), size(inputs)],
            values: normal(seed, &name("weight"), outputs * inputs, deviation),
            decays: true,
            trained: true,
        },
        Parameter {
            name: name("bias"),
            shape: vec![size(outputs)],
            values: vec![0.0; outputs],
            decays: false,
            trained: true,
        },
    ]
}

/// The map of a task's features into the space of its classes' `vectors`, `[d, hidden]` (normal with standard
/// deviation 0.02), and these vectors `[C, d]`, which are not trained. The map is a function of the first
/// three arguments and d.
#[must_use]
pub fn space(seed: u64, task: &str, vectors: &[Vec<f32>], hidden: usize) -> [Parameter; 2] {
    let width = vectors.first().map_or(0, Vec::len);
    let name = format!("heads.{task}");
    let [weight, _] = layer(seed, &name, (width, hidden), STD);
    let vectors = Parameter {
        name: format!("{name}.vectors"),
        shape: vec![size(vectors.len()), size(width)],
        values: vectors.concat(),
        decays: false,
        trained: false,
    };
    [weight, vectors]
}

fn size(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// `count` normally distributed numbers from the stream of (seed, name), by Box and Muller.
fn normal(seed: u64, name: &str, count: usize, deviation: f64) -> Vec<f32> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
    let mut stream = hasher.finalize_xof();
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let mut bytes = [0; 16];
        stream.fill(&mut bytes);
        // Two numbers in (0, 1), 53 bits each; never 0, whose logarithm is infinite.
        let unit = |half: &[u8]| {
            let bits = half
                .iter()
                .fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte))
                >> 11;
            #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
            let unit = (bits as f64 + 0.5) / (1_u64 << 53) as f64;
            unit
        };
        let radius = deviation * (-2.0 * unit(&bytes[..8]).ln()).sqrt();
        let angle = TAU * unit(&bytes[8..]);
        #[expect(clippy::cast_possible_truncation, reason = "parameters are 32-bit")]
        values.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
    }
    values.truncate(count);
    values
}
