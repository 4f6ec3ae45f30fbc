//! `GetJobSeries`: which part of which series, and the answer.

use super::Shared;
use crate::driver::stopped;
use crate::series::{Line, Wanted, refresh};
use espalier_core::JobView;
use espalier_proto::{ApiError, v1};

/// Points of a series if the request does not say.
const POINTS: u32 = 1000;
/// Most points of a series.
const MOST_POINTS: u32 = 10_000;
/// Most names in a request.
const NAMES: usize = 1000;

/// Reads a request.
pub(super) fn wanted(request: v1::GetJobSeriesRequest) -> Result<Wanted, ApiError> {
    let v1::GetJobSeriesRequest {
        name: _,
        series,
        from_step,
        to_step,
        max_points,
    } = request;
    if to_step != 0 && from_step > to_step {
        let message =
            format!("is {to_step}, before `from_step`, {from_step}; give a later one, or 0");
        return Err(ApiError::field("to_step", message));
    }
    if series.len() > NAMES {
        let message = format!(
            "has {} names, more than {NAMES}; name groups such as `loss/`, or none for all",
            series.len()
        );
        return Err(ApiError::field("series", message));
    }
    let points = match max_points {
        0 => POINTS,
        points => points.min(MOST_POINTS),
    };
    Ok(Wanted {
        names: series,
        from: from_step,
        to: if to_step == 0 { u64::MAX } else { to_step },
        points: usize::try_from(points).unwrap_or(usize::MAX),
        in_all: usize::MAX,
    })
}

/// The series of a job as they are now.
pub(super) async fn read(
    shared: &Shared,
    job: &JobView,
    wanted: Wanted,
) -> Result<v1::GetJobSeriesResponse, ApiError> {
    refresh(shared, &job.name, &job.uid).await?;
    let (series, uid) = (shared.series.clone(), job.uid.clone());
    let read = tokio::task::spawn_blocking(move || series.read(&uid, wanted)).await;
    let (lines, last_step) = read.map_err(|_| stopped())?;
    Ok(v1::GetJobSeriesResponse {
        series: lines.into_iter().map(message).collect(),
        last_step,
    })
}

fn message(line: Line) -> v1::Series {
    v1::Series {
        name: line.name,
        steps: line.steps,
        means: line.means,
        lows: line.lows,
        highs: line.highs,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    // Promise: what is left out means what the protos say, and nonsense is named.
    #[test]
    fn requests() {
        let all = wanted(v1::GetJobSeriesRequest::default()).unwrap();
        assert_eq!((all.from, all.to, all.points), (0, u64::MAX, 1000));
        let much = v1::GetJobSeriesRequest {
            from_step: 5,
            to_step: 5,
            max_points: u32::MAX,
            ..Default::default()
        };
        let much = wanted(much).unwrap();
        assert_eq!((much.from, much.to, much.points), (5, 5, 10_000));
        let backwards = v1::GetJobSeriesRequest {
            from_step: 2,
            to_step: 1,
            ..Default::default()
        };
        let crowd = v1::GetJobSeriesRequest {
            series: vec!["loss/a".into(); NAMES + 1],
            ..Default::default()
        };
        for (request, field) in [(backwards, "to_step"), (crowd, "series")] {
            assert_eq!(wanted(request).unwrap_err().violations[0].field, field);
        }
    }
}
