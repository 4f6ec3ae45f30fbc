//! Which worker hosts which ranks of a plan.

use espalier_spec::plan::Plan;
use std::collections::BTreeSet;
use std::fmt::Write;

/// A worker, its ranks and their devices.
pub(crate) struct Host<'a> {
    worker: &'a str,
    ranks: Vec<u32>,
    devices: BTreeSet<u32>,
}

/// The workers of a plan, in order of their first rank.
pub(crate) fn hosts(plan: &Plan) -> Vec<Host<'_>> {
    let mut hosts: Vec<Host<'_>> = Vec::new();
    for seat in &plan.seats {
        let worker = seat.worker.as_str();
        let known = hosts.iter().position(|host| host.worker == worker);
        let at = known.unwrap_or(hosts.len());
        if at == hosts.len() {
            hosts.push(Host {
                worker,
                ranks: Vec::new(),
                devices: BTreeSet::new(),
            });
        }
        hosts[at].ranks.push(seat.rank.0);
        hosts[at].devices.insert(seat.device);
    }
    hosts
}

/// A line for each worker if some ranks share a device; empty if each has its own.
pub(crate) fn shared_devices(plan: &Plan) -> String {
    let hosts = hosts(plan);
    let mut out = String::new();
    if hosts
        .iter()
        .all(|host| host.ranks.len() == host.devices.len())
    {
        return out;
    }
    for host in hosts {
        let _ = writeln!(
            out,
            "  - worker {} hosts {} on {}",
            host.worker,
            list("rank", host.ranks.iter()),
            list("device", host.devices.iter())
        );
    }
    out
}

/// "rank 2", "ranks 0, 1".
fn list<'a>(noun: &str, numbers: impl Iterator<Item = &'a u32>) -> String {
    let numbers: Vec<String> = numbers.map(ToString::to_string).collect();
    let plural = if numbers.len() == 1 { "" } else { "s" };
    format!("{noun}{plural} {}", numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_spec::plan::{ExchangePlan, Seat};
    use espalier_spec::{Generation, Rank};

    #[test]
    fn shared_devices_are_told() {
        // Which worker hosts which ranks is said where ranks share devices, and only there.
        let plan = |devices: [u32; 3]| {
            let seats = (0..).zip(devices).map(|(rank, device)| Seat {
                rank: Rank(rank),
                worker: if rank < 2 { "a" } else { "b" }.into(),
                device,
            });
            Plan {
                job: "x".into(),
                generation: Generation(1),
                seats: seats.collect(),
                shards: Vec::new(),
                tasks: Vec::new(),
                blocks: Vec::new(),
                exchange: ExchangePlan::default(),
                reasons: Vec::new(),
            }
        };
        assert_eq!(shared_devices(&plan([0, 1, 0])), "");
        assert_eq!(
            shared_devices(&plan([0, 0, 0])),
            "  - worker a hosts ranks 0, 1 on device 0\n  - worker b hosts rank 2 on device 0\n"
        );
    }
}
