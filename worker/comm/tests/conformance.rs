//! What every communicator must do, over shared memory, over TCP and over both at once: the same
//! suite, compared bit for bit with plain loops.

mod common;

use std::ops::Range;
use std::time::Duration;

use common::{ALL, Via, all, bits, rank_order_sum, suite, values, world};
use espalier_comm::{
    Bf16, Call, Communicator, CommunicatorExt, Error, Kind, RawBuffer, Result, SharedMemory,
    Transport,
};
use proptest::prelude::*;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Empty, one element, fewer than ranks, odd, around the small-message limit (4096 floats), and
/// larger than all rings and socket buffers together.
const LENGTHS: [usize; 8] = [0, 1, 3, 1001, 4096, 4097, 100_003, 3_000_001];

/// Uneven and partly empty ranges that cover `len`.
fn uneven(len: usize, size: usize) -> Vec<Range<usize>> {
    let cut = |r: usize| len * r * r / (size * size);
    // Rank 1 owns what comes last, to have ranges out of order.
    let mut ranges: Vec<_> = (0..size).map(|r| cut(r)..cut(r + 1)).collect();
    if size > 2 {
        ranges.swap(1, size - 1);
    }
    ranges
}

#[test]
fn all_reduce_has_the_bits_of_a_loop_in_rank_order() {
    // Promise: sums are ((g0 + g1) + g2) + ... on every rank, whatever carries them.
    for size in [1, 2, 3, 4] {
        for via in ALL {
            let sums = all(world(size, via, TIMEOUT, |comm| {
                LENGTHS
                    .iter()
                    .map(|&len| {
                        let mut mine = values(comm.rank() as u64 + 1, len);
                        comm.all_reduce(&mut mine).map(|()| mine)
                    })
                    .collect::<Result<Vec<_>>>()
            }));
            for (i, &len) in LENGTHS.iter().enumerate() {
                let parts: Vec<_> = (0..size).map(|r| values(r as u64 + 1, len)).collect();
                let expected = bits(&rank_order_sum(&parts));
                for (rank, sums) in sums.iter().enumerate() {
                    assert!(
                        bits(&sums[i]) == expected,
                        "{len} floats, rank {rank}/{size}, {via:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_test_data_notices_another_order() {
    // Guards the test above: with data that sums alike in any order it would prove nothing.
    let parts: Vec<_> = (0..3).map(|r| values(r + 1, 1001)).collect();
    let reversed: Vec<_> = parts.iter().rev().cloned().collect();
    assert_ne!(
        bits(&rank_order_sum(&parts)),
        bits(&rank_order_sum(&reversed))
    );
}

#[test]
fn owners_combine_and_give_back() {
    // Promise: reduce-scatter and all-gather respect unequal owners, leave the rest alone, and
    // together have the bits of an all-reduce.
    for size in [1, 2, 3, 4] {
        for via in ALL {
            for len in [0, 5, 1001, 700_001] {
                let ranges = uneven(len, size);
                let parts: Vec<_> = (0..size).map(|r| values(r as u64 + 9, len)).collect();
                let expected = rank_order_sum(&parts);
                all(world(size, via, TIMEOUT, |comm| {
                    let rank = comm.rank();
                    let own = ranges[rank].clone();
                    let mut buf = parts[rank].clone();
                    comm.reduce_scatter(&mut buf, &ranges)?;
                    let mut want = parts[rank].clone();
                    want[own.clone()].copy_from_slice(&expected[own]);
                    assert!(
                        bits(&buf) == bits(&want),
                        "scatter {len} {rank}/{size} {via:?}"
                    );
                    comm.all_gather(&mut buf, &ranges)?;
                    assert!(
                        bits(&buf) == bits(&expected),
                        "gather {len} {rank}/{size} {via:?}"
                    );
                    comm.barrier()
                }));
            }
        }
    }
}

#[test]
fn every_case_of_the_suite_has_the_bytes_of_a_loop() {
    // Promise: every operation, on every element type, leaves exactly the expected bytes; the same
    // cases are run over NCCL where there is a GPU.
    for size in [1, 2, 4] {
        for via in ALL {
            all(world(size, via, TIMEOUT, |comm| {
                for case in suite::cases(size) {
                    let got = suite::run(&comm, &case, &suite::Host)?;
                    let expected = suite::expected(&case, comm.rank(), size);
                    assert!(got == expected, "{case}, {}/{size}, {via:?}", comm.rank());
                }
                Ok(())
            }));
        }
    }
}

#[test]
fn lent_memory_has_the_same_bytes() {
    // Promise: every case of the suite leaves the same bytes over memory that peers read where it
    // is, next to operations on ordinary memory, and peers on shared-memory links do read it so.
    for size in [1, 2, 4] {
        for via in ALL {
            let lent = all(world(size, via, TIMEOUT, |comm| {
                let arena = suite::Lent::new()?;
                for case in suite::cases(size) {
                    let expected = suite::expected(&case, comm.rank(), size);
                    for turn in 0..2 {
                        let got = suite::run(&comm, &case, &arena)?;
                        let rank = comm.rank();
                        assert!(
                            got == expected,
                            "{case}, {rank}/{size}, {via:?}, turn {turn}"
                        );
                    }
                    let got = suite::run(&comm, &case, &suite::Host)?;
                    assert!(got == expected, "{case}, {}/{size}, {via:?}", comm.rank());
                }
                let shares = (0..size).any(|p| comm.transport(p) == Some(Transport::SharedMemory));
                Ok((shares, comm.traffic()))
            }));
            for (shares, traffic) in lent {
                assert_eq!(traffic.total().lent > 0, shares, "{size} {via:?}");
                let kinds = [
                    Kind::AllReduce,
                    Kind::ReduceScatter,
                    Kind::AllGather,
                    Kind::AllToAll,
                ];
                for kind in kinds {
                    assert_eq!(traffic.of(kind).lent > 0, shares, "{size} {via:?} {kind}");
                }
            }
        }
    }
}

#[test]
fn long_sums_over_lent_memory_have_the_bits_of_a_loop() {
    // Promise: the order of sums is that of ranks, and the counted bytes are those of the design,
    // whether all, part or none of a rank's lent memory is summed, and whatever the others do;
    // memory that is freed and made anew is no obstacle.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Way {
        All,
        Part,
        PlainOn(usize),
    }
    let len = 3_000_001;
    let ways = [
        Way::All,
        Way::All,
        Way::Part,
        Way::PlainOn(0),
        Way::All,
        Way::PlainOn(1),
        Way::All,
    ];
    for size in [2, 3] {
        for via in [Via::Shm, Via::Mixed] {
            let parts: Vec<_> = (0..size).map(|r| values(r as u64 + 1, len)).collect();
            let expected = bits(&rank_order_sum(&parts));
            all(world(size, via, TIMEOUT, |comm| {
                let rank = comm.rank();
                for round in 0..3 {
                    let mut memory = SharedMemory::new(4 * len)?;
                    for (turn, way) in ways.into_iter().enumerate() {
                        let at = format!("{way:?}, turn {turn} of {round}, {rank}/{size} {via:?}");
                        let mut plain = parts[rank].clone();
                        let sum = memory.as_mut_slice();
                        let sum = match way {
                            Way::PlainOn(r) if r == rank => &mut plain,
                            _ => sum,
                        };
                        sum.copy_from_slice(&parts[rank]);
                        let skip = usize::from(way == Way::Part);
                        let before = comm.traffic().total();
                        comm.all_reduce(&mut sum[skip..])?;
                        let after = comm.traffic().total();
                        assert!(bits(&sum[skip..]) == expected[skip..], "{at}");
                        let design = (2 * 4 * len * (size - 1) / size) as u64;
                        let sent = after.sent - before.sent;
                        assert!(sent.abs_diff(design) < 20_000, "{sent} of {design}, {at}");
                        let got = after.received - before.received;
                        assert!(got.abs_diff(design) < 20_000, "{got} of {design}, {at}");
                        let lent = after.lent - before.lent;
                        if way == Way::PlainOn(rank) {
                            assert_eq!(lent, 0, "{at}");
                        } else if turn > 0 && via == Via::Shm {
                            assert!(lent.abs_diff(design) < 20_000, "lent {lent}, {at}");
                        }
                    }
                }
                comm.barrier()
            }));
        }
    }
}

#[test]
fn memory_of_a_device_is_refused_before_anything_is_sent() {
    // Promise: the CPU communicator says which memory it was given and what to do, and goes on.
    all(world(2, Via::Shm, TIMEOUT, |comm| {
        // SAFETY: refused before anybody looks at the address.
        #[allow(unsafe_code)]
        let buffer = unsafe { RawBuffer::on_device(std::ptr::dangling_mut::<f32>(), 1 << 40, 3) };
        let error = comm.start_all_reduce(buffer).wait().expect_err("refused");
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("cuda:3") && text.contains("NCCL"), "{text}");
        let error = comm
            .start_all_to_all(
                vec![Bf16::default(); 2],
                &[0..1, 1..2],
                // SAFETY: as above.
                #[allow(unsafe_code)]
                unsafe {
                    RawBuffer::on_device(std::ptr::dangling_mut::<Bf16>(), 2, 0)
                },
                &[0..1, 1..2],
            )
            .wait()
            .expect_err("refused");
        assert!(
            error.to_string().contains("recv in memory of cuda:0"),
            "{error}"
        );
        comm.barrier()
    }));
}

#[test]
fn bf16_moves_and_does_not_sum() {
    // Promise: gradients can be exchanged in 16 bits; a sum of them is refused, not rounded.
    all(world(2, Via::Shm, TIMEOUT, |comm| {
        let rank = comm.rank();
        let mine: Vec<Bf16> = (0..10)
            .map(|i| Bf16::from_f32((10 * rank + i) as f32))
            .collect();
        let mut theirs = vec![Bf16::default(); 10];
        comm.all_to_all(&mine, &[0..5, 5..10], &mut theirs, &[0..5, 5..10])?;
        let value = |i: usize| (10 * (i / 5) + 5 * rank + i % 5) as f32;
        assert!((0..10).all(|i| theirs[i].to_f32() == value(i)));
        let mut region = mine.clone();
        let error = comm
            .issue(Call::AllReduce {
                buf: espalier_comm::Buffer::region(&mut region),
            })
            .wait()
            .expect_err("no sums");
        assert!(error.to_string().contains("cannot sum bf16"), "{error}");
        comm.barrier()
    }));
}

#[test]
fn f64_sums_and_bytes_of_any_length() {
    // Promise: f64 sums too; byte strings arrive whole, in rank order, and odd lengths do not
    // disturb the floats after them.
    for size in [1, 2, 4] {
        for via in ALL {
            all(world(size, via, TIMEOUT, |comm| {
                let rank = comm.rank();
                for round in 0..5usize {
                    let of = |r: usize| {
                        vec![r as u8 + 1; (r * 7 + round * 3) * (1 + 9999 * (round % 2))]
                    };
                    let parts = comm.all_gather_bytes(of(rank))?;
                    assert_eq!(parts, (0..size).map(of).collect::<Vec<_>>());
                    let to = |from: usize, to: usize| {
                        vec![(from * 16 + to) as u8; from + 3 * to + round]
                    };
                    let parts = comm.all_to_all_bytes((0..size).map(|r| to(rank, r)).collect())?;
                    assert_eq!(parts, (0..size).map(|r| to(r, rank)).collect::<Vec<_>>());
                    let mut gram = vec![rank as f64 + 0.5; 25 + 3000 * round];
                    comm.all_reduce(&mut gram)?;
                    let sum: f64 = (0..size).map(|r| r as f64 + 0.5).sum();
                    assert!(gram.iter().all(|&g| g == sum), "round {round}");
                }
                Ok(())
            }));
        }
    }
}

#[test]
fn broadcast_and_all_to_all_move_exactly_what_is_named() {
    // Promise: a broadcast copies the root's memory; an all-to-all moves ranges, nothing else.
    for via in ALL {
        for size in [1, 3] {
            all(world(size, via, TIMEOUT, |comm| {
                let rank = comm.rank();
                for root in 0..size {
                    let mut buf = values(100 + rank as u64, 70_001);
                    comm.broadcast(&mut buf, root)?;
                    assert!(bits(&buf) == bits(&values(100 + root as u64, 70_001)));
                }
                // Rank r has 1000 * (r + 1) floats for everybody.
                let send = values(rank as u64, 1000 * (rank + 1));
                let send_ranges = vec![0..send.len(); size];
                let start = |r: usize| 1000 * r * (r + 1) / 2 + 1;
                let recv_ranges: Vec<_> =
                    (0..size).map(|r| start(r)..start(r + 1) - 1 + 1).collect();
                let mut recv = vec![-7.0; start(size) + 1];
                comm.all_to_all(&send, &send_ranges, &mut recv, &recv_ranges)?;
                assert_eq!((recv[0], recv[start(size)]), (-7.0, -7.0));
                for r in 0..size {
                    let theirs = values(r as u64, 1000 * (r + 1));
                    assert!(bits(&recv[recv_ranges[r].clone()]) == bits(&theirs));
                }
                Ok(())
            }));
        }
    }
}

#[test]
fn handles_run_in_issue_order_and_give_buffers_back() {
    // Promise: many operations can be in flight; they run in order, on owned and on lent memory.
    for via in ALL {
        all(world(3, via, TIMEOUT, |comm| {
            let mut lent = vec![comm.rank() as f32; 50_000];
            let owned: Vec<_> = (0..20)
                .map(|i| comm.start_all_reduce(vec![i as f32; 30_000 * (i % 3)]))
                .collect();
            // SAFETY: `lent` is not touched before the handle has been waited for.
            #[allow(unsafe_code)]
            let buffer = unsafe { RawBuffer::new(lent.as_mut_ptr(), lent.len()) };
            let last = comm.start_all_reduce(buffer);
            // Waiting for the last one first: all before it must be done by then.
            last.wait()?;
            assert!(lent.iter().all(|&x| x == 3.0));
            for (i, handle) in owned.into_iter().enumerate() {
                assert!(handle.is_done());
                assert!(handle.wait()?.iter().all(|&x| x == 3.0 * i as f32));
            }
            Ok(())
        }));
    }
}

#[test]
fn bytes_moved_are_those_of_the_design() {
    // Promise: 2·n·(N−1)/N bytes per rank for an all-reduce, n·(N−1)/N for an owner exchange,
    // and 40 bytes of header (plus alignment) per peer.
    let (size, len) = (4usize, 1_000_000usize);
    for via in ALL {
        all(world(size, via, TIMEOUT, |comm| {
            let mut buf = values(1, len);
            comm.all_reduce(&mut buf)?;
            let ranges: Vec<_> = (0..size)
                .map(|r| r * len / size..(r + 1) * len / size)
                .collect();
            comm.reduce_scatter(&mut buf, &ranges)?;
            let share = (len * 4 * (size - 1) / size) as u64;
            for (kind, payload) in [(Kind::AllReduce, 2 * share), (Kind::ReduceScatter, share)] {
                let moved = comm.traffic().of(kind);
                assert_eq!(moved.calls, 1);
                let slack = 48 * (size as u64 - 1) + 1000;
                assert!(
                    moved.sent.abs_diff(payload) <= slack,
                    "{kind} sent {}",
                    moved.sent
                );
                assert!(
                    moved.received.abs_diff(payload) <= slack,
                    "{kind} got {}",
                    moved.received
                );
            }
            Ok(())
        }));
    }
}

#[test]
fn ranks_use_what_they_can_share() {
    // Promise: shared memory where both sides can and want, TCP otherwise.
    world(3, Via::Mixed, TIMEOUT, |comm| {
        let expected = |peer: usize| match (comm.rank() % 2, peer % 2) {
            _ if peer == comm.rank() => None,
            (0, 0) => Some(Transport::SharedMemory),
            _ => Some(Transport::Tcp),
        };
        for peer in 0..3 {
            assert_eq!(
                comm.transport(peer),
                expected(peer),
                "{} to {peer}",
                comm.rank()
            );
        }
    });
}

/// Disjoint ranges within `len`, one per rank, in any order, with gaps.
fn ranges(size: usize) -> impl Strategy<Value = (usize, Vec<Range<usize>>)> {
    (
        prop::collection::vec(0usize..9000, 2 * size),
        Just((0..size).collect::<Vec<_>>()).prop_shuffle(),
    )
        .prop_map(|(mut cuts, order)| {
            cuts.sort_unstable();
            let len = cuts.last().map_or(0, |c| c + 3);
            let sorted: Vec<_> = cuts.chunks(2).map(|c| c[0]..c[1]).collect();
            (len, order.into_iter().map(|i| sorted[i].clone()).collect())
        })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        rng_seed: proptest::test_runner::RngSeed::Fixed(7),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_disjoint_ranges_work((len, ranges) in (1usize..5).prop_flat_map(ranges), tcp: bool) {
        // Promise: owners may hold any disjoint ranges, in any order, with gaps between them.
        let size = ranges.len();
        let parts: Vec<_> = (0..size).map(|r| values(r as u64 + 3, len)).collect();
        let sum = rank_order_sum(&parts);
        let via = if tcp { Via::Tcp } else { Via::Shm };
        let results = all(world(size, via, TIMEOUT, |comm| {
            let mut buf = parts[comm.rank()].clone();
            comm.reduce_scatter(&mut buf, &ranges)?;
            comm.all_gather(&mut buf, &ranges)?;
            Ok(buf)
        }));
        for (rank, got) in results.iter().enumerate() {
            let mut expected = parts[rank].clone();
            for range in &ranges {
                expected[range.clone()].copy_from_slice(&sum[range.clone()]);
            }
            prop_assert_eq!(bits(got), bits(&expected));
        }
    }
}
