//! What a job's exchange and memory cost, in words.

use crate::output::text;
use espalier_spec::exchange::{ExchangeType, Sharding};
use espalier_spec::plan::{ExchangePlan, SyncPath};
use espalier_spec::report::{ExchangeStats, MemoryStats};

/// How gradients travel, and what it costs.
pub(crate) fn exchange(plan: Option<&ExchangePlan>, stats: Option<&ExchangeStats>) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(plan.map(way));
    let Some(stats) = stats else {
        return lines;
    };
    let mut line = format!(
        "rank 0 sends {} a step; the exchange takes {}",
        text::bytes(stats.bytes_sent_per_step),
        text::duration(stats.seconds_per_step)
    );
    if stats.seconds_per_step > 0.0 {
        let share = stats.exposed_seconds_per_step / stats.seconds_per_step * 100.0;
        line.push_str(&format!(", {share:.0} % of it not hidden behind computing"));
    }
    lines.push(line);
    if stats.balance_seconds_per_step > 0.0 {
        let time = text::duration(stats.balance_seconds_per_step);
        lines.push(format!("the balancer takes {time} a step"));
    }
    if stats.fallbacks > 0 {
        let why = stats
            .last_fallback
            .as_ref()
            .map_or(String::new(), |why| format!("; the last time: {why}"));
        lines.push(format!(
            "the balancer found no weights {}, all tasks weighed the same then{why}",
            times(stats.fallbacks)
        ));
    }
    if stats.skipped_tasks > 0 {
        lines.push(format!(
            "gradients that were not finite were left out {}",
            times(stats.skipped_tasks)
        ));
    }
    lines
}

/// "owners combine, task gradients apart, optimizer state sharded, numbers travel as f32".
fn way(plan: &ExchangePlan) -> String {
    let mut parts = vec![match plan.sync {
        SyncPath::OwnerCombine => "owners combine",
        SyncPath::AllReduce => "all-reduce",
    }];
    if plan.apart {
        parts.push("task gradients apart");
    }
    parts.push(match plan.sharding {
        Sharding::None => "everything on every rank",
        Sharding::Optimizer => "optimizer state sharded",
        Sharding::Full => "optimizer state and parameters sharded",
    });
    parts.push(match plan.dtype {
        // Only gradients that travel apart are halved.
        ExchangeType::Bf16 if plan.apart => "numbers travel as bf16",
        ExchangeType::F32 | ExchangeType::Bf16 => "numbers travel as f32",
    });
    parts.join(", ")
}

/// What rank 0 keeps in memory.
pub(crate) fn memory(stats: &MemoryStats) -> Vec<String> {
    let bytes = text::bytes;
    vec![
        format!(
            "rank 0: parameters {} (at most {} at once), gradients {}, optimizer {}, buffers of the \
             exchange {}",
            bytes(stats.parameter_bytes),
            bytes(stats.peak_parameter_bytes),
            bytes(stats.gradient_bytes),
            bytes(stats.optimizer_bytes),
            bytes(stats.buffer_bytes)
        ),
        format!(
            "its process: at most {} so far",
            bytes(stats.peak_resident_bytes)
        ),
    ]
}

fn times(number: u64) -> String {
    if number == 1 {
        "once".to_owned()
    } else {
        format!("{} times", text::count(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exchange_is_told_with_its_cost() {
        // Promise: what was chosen, what it costs, and every irregularity with its count.
        let plan = ExchangePlan {
            apart: true,
            ..ExchangePlan::default()
        };
        let stats = ExchangeStats {
            bytes_sent_per_step: 12_345_678,
            seconds_per_step: 0.04,
            exposed_seconds_per_step: 0.01,
            balance_seconds_per_step: 0.0012,
            fallbacks: 3,
            skipped_tasks: 1,
            last_fallback: Some("the Gram matrix was 0".to_owned()),
        };
        assert_eq!(
            exchange(Some(&plan), Some(&stats)),
            [
                "owners combine, task gradients apart, optimizer state sharded, numbers travel as f32",
                "rank 0 sends 12.3 MB a step; the exchange takes 40.0 ms, 25 % of it not hidden behind \
                 computing",
                "the balancer takes 1.2 ms a step",
                "the balancer found no weights 3 times, all tasks weighed the same then; the last \
                 time: the Gram matrix was 0",
                "gradients that were not finite were left out once",
            ]
        );
    }

    #[test]
    fn nothing_is_made_up() {
        // Promise: what was not reported is not shown; one rank that sends nothing divides by
        // nothing.
        assert!(exchange(None, None).is_empty());
        assert_eq!(
            exchange(None, Some(&ExchangeStats::default())),
            ["rank 0 sends 0 B a step; the exchange takes 0 ms"]
        );
    }

    #[test]
    fn bf16_is_told_where_it_is_used() {
        // Promise: numbers are said to travel as bf16 only where they do: if gradients are apart.
        for apart in [true, false] {
            let plan = ExchangePlan {
                apart,
                dtype: ExchangeType::Bf16,
                ..ExchangePlan::default()
            };
            let told = exchange(Some(&plan), None).join(" ");
            assert_eq!(told.contains("travel as bf16"), apart, "{told}");
        }
    }

    #[test]
    fn memory_is_told_by_kind() {
        // Promise: where the bytes are, and the most there ever were.
        let stats = MemoryStats {
            parameter_bytes: 90_800_000,
            gradient_bytes: 90_800_000,
            optimizer_bytes: 181_600_000,
            buffer_bytes: 4_096,
            peak_parameter_bytes: 90_800_000,
            peak_resident_bytes: 1_234_567_890,
        };
        assert_eq!(
            memory(&stats),
            [
                "rank 0: parameters 90.8 MB (at most 90.8 MB at once), gradients 90.8 MB, optimizer \
                 181.6 MB, buffers of the exchange 4.1 kB",
                "its process: at most 1.2 GB so far",
            ]
        );
    }
}
