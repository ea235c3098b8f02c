//! The messages of the two dialects that list their listeners on a pipe: tableflip and ecdysis.

use super::spell::network;
use super::{Exported, Kind};
use std::net::SocketAddr;

/// The message that tableflip reads on descriptor 4: Go's gob encoding of `[][]string`,
/// one `{kind, network, address}` a descriptor from 5 on. The address is a key
/// that it compares as text with that of its own Listen.
pub fn tableflip_names(listeners: &[Exported]) -> Vec<u8> {
    /// The two type definitions that come first: a slice (type 66) of slices
    /// (type 65) of strings. They do not depend on the value.
    const TYPES: [u8; 27] = [
        0x0d, 0xff, 0x83, 0x02, 0x01, 0x02, 0xff, 0x84, 0x00, 0x01, 0xff, 0x82, 0x00, 0x00, 0x0c, 0xff, 0x81,
        0x02, 0x01, 0x02, 0xff, 0x82, 0x00, 0x01, 0x0c, 0x00, 0x00,
    ];
    // The type of the value, and a zero where a struct would name its field.
    let mut value = vec![0xff, 0x84, 0x00];
    gob_number(&mut value, listeners.len() as u64);
    for listener in listeners {
        let kind = match listener.kind {
            Kind::Udp | Kind::UnixDatagram => "packet",
            Kind::Tcp | Kind::Unix | Kind::UnixSeqpacket => "listener",
        };
        gob_number(&mut value, 3);
        for text in [kind, network(listener.kind), listener.written] {
            gob_number(&mut value, text.len() as u64);
            value.extend(text.bytes());
        }
    }
    let mut message = TYPES.to_vec();
    gob_number(&mut message, value.len() as u64);
    message.extend(value);
    message
}

/// A number below 128 is one byte; another one is the count of its bytes, negated, and then the
/// bytes, the highest first.
fn gob_number(message: &mut Vec<u8>, number: u64) {
    if number < 128 {
        message.push(number as u8);
        return;
    }
    let bytes = number.to_be_bytes();
    let bytes = &bytes[number.leading_zeros() as usize / 8..];
    message.push((bytes.len() as u8).wrapping_neg());
    message.extend(bytes);
}

/// The message that ecdysis reads: bincode of its list of descriptors and addresses, which
/// it compares with those that it is to listen on. `first` is the number of the
/// first listener.
pub fn ecdysis_listeners(listeners: &[Exported], first: i32) -> Vec<u8> {
    const UNIX: u32 = 0;
    const TCP: u32 = 1;
    const UDP: u32 = 2;
    const SEQPACKET: u32 = 4;
    let mut message = (listeners.len() as u64).to_le_bytes().to_vec();
    for (number, listener) in (first..).zip(listeners) {
        message.extend(number.to_le_bytes());
        let variant = match listener.kind {
            Kind::Tcp => TCP,
            Kind::Udp => UDP,
            Kind::Unix | Kind::UnixDatagram => UNIX,
            Kind::UnixSeqpacket => SEQPACKET,
        };
        message.extend(variant.to_le_bytes());
        match listener.inet {
            Some(SocketAddr::V4(address)) => {
                message.extend(0_u32.to_le_bytes());
                message.extend(address.ip().octets());
                message.extend(address.port().to_le_bytes());
            }
            Some(SocketAddr::V6(address)) => {
                message.extend(1_u32.to_le_bytes());
                message.extend(address.ip().octets());
                message.extend(address.port().to_le_bytes());
            }
            None => {
                message.push(1);
                message.extend((listener.address.len() as u64).to_le_bytes());
                message.extend(listener.address.bytes());
            }
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inet<'a>(kind: Kind, written: &'a str, bound: &'a str) -> Exported<'a> {
        Exported { name: "x", address: bound, written, kind, inet: bound.parse().ok() }
    }

    fn unix(path: &str) -> Exported<'_> {
        Exported { name: "x", address: path, written: path, kind: Kind::Unix, inet: None }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The expected bytes are what Go 1.19 writes.
    #[test]
    fn tableflip_names_are_what_go_would_write() {
        let types = "0dff83020102ff840001ff8200000cff81020102ff8200010c0000";
        assert_eq!(hex(&tableflip_names(&[])), format!("{types}04ff840000"));
        let three = [
            inet(Kind::Tcp, ":80", "[::]:80"),
            inet(Kind::Udp, "localhost:53", "127.0.0.1:53"),
            unix("/run/x.sock"),
        ];
        let expected = "4aff84000303086c697374656e657203746370033a383003067061636b6574037564700c6c6f63616c\
                        686f73743a353303086c697374656e657204756e69780b2f72756e2f782e736f636b";
        assert_eq!(hex(&tableflip_names(&three)), format!("{types}{expected}"));
        let long = "x".repeat(200);
        let message = hex(&tableflip_names(&[unix(&long)]));
        assert!(message.starts_with(&format!("{types}ffddff84000103086c697374656e657204756e6978ffc87878")));
        let many = vec![inet(Kind::Tcp, ":80", "[::]:80"); 300];
        assert!(hex(&tableflip_names(&many)).starts_with(&format!("{types}fe151eff8400fe012c03086c69")));
    }

    #[test]
    fn ecdysis_listeners_are_what_bincode_would_write() {
        let all = [inet(Kind::Tcp, "", "1.2.3.4:80"), inet(Kind::Udp, "", "[::1]:53"), unix("/x")];
        let expected = [
            "0300000000000000",
            "030000000100000000000000010203045000",
            "040000000200000001000000000000000000000000000000000000013500",
            "05000000000000000102000000000000002f78",
        ];
        assert_eq!(hex(&ecdysis_listeners(&all, 3)), expected.concat());
    }
}
