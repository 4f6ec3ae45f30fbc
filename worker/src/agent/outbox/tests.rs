use super::*;

fn evaluation(step: u64) -> v1::WorkerMessage {
    let evaluation = v1::Evaluation {
        step,
        ..Default::default()
    };
    wire::message(Message::Evaluation(v1::EvaluationReport {
        job: "news".to_owned(),
        generation: 1,
        evaluation: Some(evaluation),
    }))
}

fn progress(job: &str, step: u64) -> v1::WorkerMessage {
    let progress = v1::Progress {
        step,
        ..Default::default()
    };
    wire::message(Message::Progress(v1::ProgressReport {
        job: job.to_owned(),
        generation: 1,
        progress: Some(progress),
    }))
}

fn line() -> v1::WorkerMessage {
    wire::message(Message::Logs(v1::LogLines::default()))
}

fn end(generation: u64) -> v1::WorkerMessage {
    wire::message(Message::Stopped(v1::Stopped {
        job: "news".to_owned(),
        generation,
        outcome: Some(v1::stopped::Outcome::ExportPath("/out".to_owned())),
    }))
}

fn run(generation: u64) -> v1::RunningJob {
    v1::RunningJob {
        job: "news".to_owned(),
        generation,
        ..Default::default()
    }
}

/// Everything that is sent now, as the numbers of the messages.
fn sent(outbox: &mut Outbox) -> Vec<u64> {
    let mut numbers = Vec::new();
    while outbox.has_more() {
        numbers.extend(outbox.take().map(|message| message.sequence));
    }
    numbers
}

// Promise: what lasts is kept until it is acknowledged, and sent again on every stream until then, in order and
// before what is newer; what does not last is sent once.
#[test]
fn reports_come_again_until_they_are_acknowledged() {
    let mut outbox = Outbox::default();
    outbox.put(evaluation(1), None);
    outbox.put(line(), None);
    outbox.put(progress("news", 1), None);
    outbox.open(true);
    assert_eq!(sent(&mut outbox), [1, 0, 0]);
    outbox.put(evaluation(2), None);
    assert_eq!(sent(&mut outbox), [2]);
    assert!(!outbox.is_settled());

    // The stream breaks; more is said meanwhile.
    outbox.put(line(), None);
    outbox.put(end(1), Some(run(1)));
    outbox.open(true);
    assert_eq!(sent(&mut outbox), [1, 2, 0, 3]);
    outbox.acknowledge(2);
    outbox.open(true);
    assert_eq!(sent(&mut outbox), [3]);

    // What comes again is known already: that is said before it was sent.
    outbox.put(evaluation(3), None);
    outbox.open(true);
    outbox.acknowledge(3);
    assert_eq!(sent(&mut outbox), [4]);
    outbox.acknowledge(4);
    assert!(outbox.is_settled());
    outbox.open(true);
    assert!(!outbox.has_more());
}

// Promise: a generation counts as running until its end is acknowledged, so that nobody takes its ranks for lost.
#[test]
fn an_end_is_open_until_it_is_acknowledged() {
    let mut outbox = Outbox::default();
    outbox.put(end(1), Some(run(1)));
    outbox.put(end(2), None);
    let ended = |outbox: &Outbox| outbox.ended().map(|run| run.generation).collect::<Vec<_>>();
    assert_eq!(ended(&outbox), [1]);
    outbox.open(true);
    assert_eq!(sent(&mut outbox), [1, 2]);
    assert_eq!(ended(&outbox), [1]);
    assert!(outbox.tells_end("news", 1) && outbox.tells_end("news", 2));
    assert!(!outbox.tells_end("news", 3) && !outbox.tells_end("other", 1));
    outbox.acknowledge(1);
    assert!(ended(&outbox).is_empty());
    assert!(!outbox.tells_end("news", 1) && outbox.tells_end("news", 2));
}

// Promise: of a job's progress only the newest is sent, and it takes no other job's place.
#[test]
fn only_the_newest_progress_is_kept() {
    let mut outbox = Outbox::default();
    for (job, step) in [("news", 1), ("other", 1), ("news", 2)] {
        outbox.put(progress(job, step), None);
    }
    let mut steps = Vec::new();
    while let Some(message) = outbox.take() {
        let Some(Message::Progress(report)) = message.message else {
            panic!("{message:?}")
        };
        steps.push((report.job, report.progress.unwrap().step));
    }
    assert_eq!(steps, [("other".to_owned(), 1), ("news".to_owned(), 2)]);
}

// Promise: to a coordinator that does not acknowledge everything is sent once, and nothing is kept for it.
#[test]
fn an_older_coordinator_is_told_once() {
    let mut outbox = Outbox::default();
    outbox.put(evaluation(1), None);
    outbox.put(end(1), Some(run(1)));
    outbox.open(true);
    assert_eq!(sent(&mut outbox), [1, 2]);
    outbox.open(false);
    assert_eq!(sent(&mut outbox), [1, 2]);
    assert!(outbox.is_settled() && outbox.ended().next().is_none());
    outbox.open(false);
    assert!(!outbox.has_more());
    outbox.put(evaluation(2), None);
    assert_eq!(sent(&mut outbox), [3]);
    assert!(outbox.is_settled());
}

// Promise: room is bounded, whoever acknowledges nothing; lines go first, then news, and the ends of generations
// last.
#[test]
fn what_is_missed_least_is_dropped_first() {
    let mut outbox = Outbox::default();
    outbox.put(end(1), Some(run(1)));
    outbox.put(evaluation(1), None);
    outbox.open(true);
    assert_eq!(sent(&mut outbox), [1, 2]);
    outbox.put(line(), None);
    for step in 2..2 + KEPT as u64 {
        outbox.put(evaluation(step), None);
    }
    assert_eq!(outbox.sent.len() + outbox.waiting.len(), KEPT);
    assert!(!outbox.waiting.iter().any(is_line));
    outbox.open(true);
    let numbers = sent(&mut outbox);
    assert_eq!(numbers[..2], [1, 4]);
    assert_eq!(numbers.last(), Some(&(2 + KEPT as u64)));

    let mut outbox = Outbox::default();
    outbox.open(true);
    for generation in 1..=2 + KEPT as u64 {
        outbox.put(end(generation), Some(run(generation)));
    }
    assert_eq!(sent(&mut outbox).first(), Some(&3));
    assert_eq!((outbox.sent.len(), outbox.ended.len()), (KEPT, KEPT));
}
