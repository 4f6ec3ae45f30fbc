use super::*;
use espalier_spec::recovery::Source;
use espalier_spec::{Generation, Step};

fn recovery() -> Recovery {
    Recovery {
        generation: Generation(2),
        cause: Cause::Failure,
        worker: Some("worker-2".into()),
        reason: String::new(),
        reached: Step(107),
        from: Step(100),
        source: Source::Snapshot,
        replayed_samples: 224,
        fault: Some(1_000),
        detected: 1_010,
        agreed: Some(1_220),
        connected: None,
        restored: Some(1_370),
        first_step: Some(1_740),
    }
}

// Promise: the phases of a recovery add up to its whole; a moment that nobody told of belongs to the
// next phase, and where nothing was lost there is nothing to detect.
#[test]
fn phases_add_up() {
    let of = |recovery: &Recovery| -> Vec<(&str, u128)> {
        let all = phases(recovery).into_iter();
        all.map(|(phase, time)| (phase, time.as_millis())).collect()
    };
    let whole = [
        ("detect", 10),
        ("agree", 210),
        ("restore", 150),
        ("first_step", 370),
        ("total", 740),
    ];
    assert_eq!(of(&recovery()), whole);
    let moved = Recovery {
        fault: None,
        first_step: None,
        ..recovery()
    };
    assert_eq!(of(&moved), [("agree", 210), ("restore", 150)]);
}

// Promise: what was counted is shown, also by a coordinator that does not lead.
#[test]
fn a_follower_shows_its_counts() {
    let metrics = Metrics::new();
    metrics.recovered(&recovery());
    metrics.refused("rate");
    metrics.refused("rate");
    metrics.batch(3, Some(Duration::from_millis(4)));
    metrics.batch(0, None);
    metrics.store_failed();
    metrics.elected(7);
    metrics.leader_changed();
    let text = metrics.render(None, Format::Classic);
    for line in [
        "espalier_recoveries_total{cause=\"failure\"} 1",
        "espalier_recovery_duration_seconds_count{phase=\"total\"} 1",
        "espalier_replayed_steps_total 7",
        "espalier_replayed_samples_total 224",
        "espalier_api_refused_total{reason=\"rate\"} 2",
        "espalier_driver_batches_total 2",
        "espalier_store_records_total 3",
        "espalier_store_write_duration_seconds_bucket{le=\"0.005\"} 1",
        "espalier_store_errors_total 1",
        "espalier_term 7",
        "espalier_elections_won_total 1",
        "espalier_leader_changes_total 1",
        "espalier_leader 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(!text.contains("espalier_jobs{"), "{text}");
}
