//! Rows against a dense table, on one owner and on several, and after a resume.

use super::*;
use espalier_spec::job::{OptimizerMethod, OptimizerSpec};

fn optimizer(spec: OptimizerSpec) -> Optimizer {
    Optimizer::new(&OptimizerSpec {
        weight_decay: 0.0,
        ..spec
    })
}

fn adamw() -> Optimizer {
    optimizer(OptimizerSpec::default())
}

/// State for the rows of a whole table.
fn state(rows: u32, width: usize, optimizer: &Optimizer) -> RowOptimizer {
    let state = RowOptimizer::new(0..rows, width);
    match optimizer.has_second() {
        true => state,
        false => state.without_second(),
    }
}

// Promise: with any pattern of touched rows the result is that of a dense table, bit for bit: a row that
// a step does not touch goes on by its momentum.
#[test]
fn equals_a_dense_table() {
    assert_equals_dense(&adamw());
    for nesterov in [false, true] {
        assert_equals_dense(&optimizer(OptimizerSpec {
            method: OptimizerMethod::Sgd,
            nesterov,
            ..OptimizerSpec::default()
        }));
    }
}

#[track_caller]
fn assert_equals_dense(how: &Optimizer) {
    let (rows, width) = (6usize, 4usize);
    let start: Vec<f32> = (0..rows * width).map(|i| (i as f32 * 0.37).sin()).collect();
    let touched: [&[u32]; 4] = [&[1, 4], &[4], &[0, 1], &[]];
    let gradient = |step: usize, row: u32| {
        (0..width).map(move |j| ((step * 31 + row as usize * 7 + j) as f32).cos() * 0.1)
    };

    let mut sparse = start.clone();
    let mut optimizer = state(rows as u32, width, how);
    let mut dense = start.clone();
    let (mut first, mut second) = (vec![0f32; rows * width], vec![0f32; rows * width]);
    for (step, touched) in touched.iter().enumerate() {
        let number = step as u64 + 1;
        optimizer.clear();
        let values = touched
            .iter()
            .flat_map(|&row| gradient(step, row))
            .collect();
        optimizer.add(
            &RowGradient {
                rows: touched.to_vec(),
                values,
            },
            1.0,
        );
        optimizer.step(&mut sparse, how, 1e-3, number, 0.5);

        let mut whole = vec![0f32; rows * width];
        for &row in *touched {
            for (j, g) in gradient(step, row).enumerate() {
                whole[row as usize * width + j] = g;
            }
        }
        let coefficients = how.coefficients(1e-3, number, true);
        let moments = (&mut first[..], &mut second[..]);
        coefficients.apply(&mut dense, &whole, moments, 0.5);
    }
    assert_eq!(sparse, dense, "{how:?}");
    assert_eq!(optimizer.rows(), [1, 4, 0]);
    assert_eq!(optimizer.moments().1.is_some(), how.has_second());
}

// Promise: SGD's momentum goes on from a checkpoint, bit for bit.
#[test]
fn momentum_goes_on_after_a_resume() {
    let sgd = optimizer(OptimizerSpec {
        method: OptimizerMethod::Sgd,
        ..OptimizerSpec::default()
    });
    let gradient = RowGradient {
        rows: vec![1],
        values: vec![1.0, -2.0],
    };
    let mut table = vec![0.5f32, 1.0, 1.5, 2.0];
    let mut one = state(2, 2, &sgd);
    one.add(&gradient, 1.0);
    one.step(&mut table, &sgd, 0.1, 1, 1.0);
    let mut other = state(2, 2, &sgd);
    let (momentum, second) = one.moments();
    other.restore(one.rows(), momentum, second, None);
    let before = table.clone();
    let mut tables = [table.clone(), table];
    for (optimizer, table) in [&mut one, &mut other].into_iter().zip(&mut tables) {
        optimizer.clear();
        optimizer.step(table, &sgd, 0.1, 2, 1.0);
    }
    assert_eq!(tables[0], tables[1]);
    assert_ne!(tables[0], before);
}

// Promise: a row's gradient is the sum over its tokens, and survives the way to another rank.
#[test]
fn gradients_of_tokens_become_gradients_of_rows() {
    let gradient = RowGradient::collect(&[7, 2, 7], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2);
    assert_eq!(gradient.rows, [2, 7]);
    assert_eq!(gradient.values, [3.0, 4.0, 6.0, 8.0]);
    let part = gradient.part(&(3..9), 2);
    assert_eq!(part.rows, [7]);
    assert_eq!(
        RowGradient::from_bytes(&part.to_bytes(), 2),
        Some(part.clone())
    );
    assert_eq!(RowGradient::from_bytes(&part.to_bytes()[1..], 2), None);
}

// Promise: gradients are added row by row, and only rows that both have meet in a dot product.
#[test]
fn gradients_of_ranks_are_added() {
    let left = RowGradient {
        rows: vec![1, 4],
        values: vec![1.0, 2.0, 3.0, 4.0],
    };
    let right = RowGradient {
        rows: vec![0, 4, 7],
        values: vec![5.0, 6.0, 7.0, 8.0, 9.0, 10.0],
    };
    let sum = left.clone().plus(&right, 2);
    assert_eq!(sum.rows, [0, 1, 4, 7]);
    assert_eq!(sum.values, [5.0, 6.0, 1.0, 2.0, 10.0, 12.0, 9.0, 10.0]);
    let mut products = Vec::new();
    left.dot(&right, 2, |product| products.push(product));
    assert_eq!(products, [3.0 * 7.0 + 4.0 * 8.0]);
}

// Promise: owners of parts of the table do together what one owner does.
#[test]
fn owners_of_parts_do_what_one_owner_does() {
    let gradient = RowGradient {
        rows: vec![0, 3],
        values: vec![1.0, 2.0, 3.0, 4.0],
    };
    let mut whole = vec![0.5f32; 8];
    let mut one = RowOptimizer::new(0..4, 2);
    one.add(&gradient, 1.0);
    one.step(&mut whole, &adamw(), 0.1, 1, 1.0);
    let mut parts = vec![0.5f32; 8];
    for (owned, values) in [0..2, 2..4].into_iter().zip(parts.chunks_mut(4)) {
        let mut part = RowOptimizer::new(owned, 2);
        part.add(&gradient, 1.0);
        part.step(values, &adamw(), 0.1, 1, 1.0);
    }
    assert_eq!(whole, parts);
}

// Promise: a row is pulled to what it was before its first step, also after a resume.
#[test]
fn rows_are_pulled_to_their_start() {
    let adamw = Optimizer {
        l2_sp: 0.5,
        ..adamw()
    };
    let gradient = |row| RowGradient {
        rows: vec![row],
        values: vec![1.0, -2.0],
    };
    let first = vec![0.5f32, 1.0, 1.5, 2.0];
    let mut table = first.clone();
    let mut one = RowOptimizer::new(0..2, 2).held_to_start();
    one.add(&gradient(1), 1.0);
    one.step(&mut table, &adamw, 0.1, 1, 1.0);
    let mut other = RowOptimizer::new(0..2, 2).held_to_start();
    let (m, v) = one.moments();
    other.restore(one.rows(), m, v, one.start());
    let mut tables = [table.clone(), table];
    for (optimizer, table) in [&mut one, &mut other].into_iter().zip(&mut tables) {
        optimizer.clear();
        optimizer.add(&gradient(0), 1.0);
        optimizer.step(table, &adamw, 0.1, 2, 1.0);
    }
    assert_eq!(tables[0], tables[1]);
    assert_eq!(one.start(), Some(&[1.5, 2.0, 0.5, 1.0][..]));
    assert_eq!(one.start(), other.start());
}
