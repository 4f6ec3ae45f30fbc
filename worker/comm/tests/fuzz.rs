//! Promise: whatever bytes come in on a connection between ranks, they are read or refused.

#[path = "../../../fuzz/src/mutate.rs"]
mod mutate;
#[path = "../../../fuzz/src/peer.rs"]
mod peer;

fn seeds() -> Vec<Vec<u8>> {
    let mut hello = b"ESPALIER".to_vec();
    hello.extend(3_u16.to_le_bytes());
    hello.push(0);
    hello.extend(1_u64.to_le_bytes());
    for number in [1_u32, 0, 2, 1] {
        hello.extend(number.to_le_bytes());
    }
    hello.extend(3_u16.to_le_bytes());
    hello.extend(b"job");
    hello.push(1);
    hello.extend([9; 32]);
    let mut reply = b"ESPALIER".to_vec();
    reply.push(2);
    reply.extend(2_u16.to_le_bytes());
    reply.extend(b"no");
    let mut offer = 4_u16.to_le_bytes().to_vec();
    offer.extend(b"esp1");
    offer.extend([7; 16]);
    let mut header = b"ESPo".to_vec();
    header.extend([0, 1, 0, 0]);
    header.extend([1; 32]);
    vec![hello, reply, offer, header]
}

#[test]
fn any_bytes_are_read_or_refused() {
    let tokens: [&[u8]; 2] = [b"ESPALIER", b"ESPo"];
    mutate::run(&seeds(), &tokens, 30_000, peer::target);
}
