//! What is worth an event: `kubectl describe` shows it.

use super::condition;
use super::status::HINDERED;
use crate::resource::{State, TrainingJobStatus};

/// Something that happened to a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether somebody should look at it.
    pub warning: bool,
    /// What happened, as a word.
    pub reason: String,
    /// What happened, as a sentence.
    pub message: String,
}

/// What the change from one status to the next says.
#[must_use]
pub fn notes(before: &TrainingJobStatus, after: &TrainingJobStatus) -> Vec<Note> {
    let mut notes = Vec::new();
    if let Some(state) = after.state
        && before.state != Some(state)
    {
        notes.push(Note {
            warning: matches!(state, State::Rejected | State::Failed | State::Lost),
            reason: state.as_str().to_owned(),
            message: after.reason.clone(),
        });
    }
    let refused = |status: &TrainingJobStatus| {
        condition(status, "SpecChanged")
            .filter(|known| known.reason == "Refused")
            .map(|known| known.message.clone())
    };
    if let Some(message) = refused(after)
        && refused(before).is_none()
    {
        notes.push(Note {
            warning: true,
            reason: "SpecChangeRefused".to_owned(),
            message,
        });
    }
    let away = |status: &TrainingJobStatus| {
        condition(status, "CoordinatorReachable")
            .filter(|known| known.status == "False")
            .map(|known| known.message.clone())
    };
    if let Some(message) = away(after)
        && away(before).is_none()
    {
        notes.push(Note {
            warning: true,
            reason: "CoordinatorUnreachable".to_owned(),
            message,
        });
    }
    let hindered = |status: &TrainingJobStatus| {
        condition(status, HINDERED)
            .filter(|known| known.status == "True")
            .map(|known| (known.reason.clone(), known.message.clone()))
    };
    if let Some((act, message)) = hindered(after)
        && hindered(before).is_none_or(|(other, _)| other != act)
    {
        notes.push(Note {
            warning: true,
            reason: HINDERED.to_owned(),
            message: format!("{act}: {message}"),
        });
    }
    notes
}
