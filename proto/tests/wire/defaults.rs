//! What a message leaves out means what a job file that leaves it out means.

use espalier_proto::{Wire, v1};
use espalier_spec::job::{ContrastiveSpec, Sampler};

// Promise: numbers that have a default of their own have the same one in messages and job files.
#[test]
fn numbers_left_out_are_those_of_the_job_file() {
    let sampler = |kind| Sampler::from_wire(v1::Sampler { kind: Some(kind) }).unwrap();
    let from_file = |json: &str| serde_json::from_str::<Sampler>(json).unwrap();
    use v1::sampler::{Annealed, Capped, Kind};
    assert_eq!(
        sampler(Kind::Annealed(Annealed::default())),
        from_file(r#"{"annealed": {}}"#)
    );
    let capped = Capped {
        cap: 5,
        temperature: None,
    };
    assert_eq!(
        sampler(Kind::Capped(capped)),
        from_file(r#"{"capped": {"cap": 5}}"#)
    );
    let loss = v1::Loss {
        contrastive: Some(v1::loss::Contrastive::default()),
        ..v1::Loss::default()
    };
    let loss = espalier_spec::job::LossSpec::from_wire(loss).unwrap();
    assert_eq!(loss.contrastive, Some(ContrastiveSpec::default()));
}
