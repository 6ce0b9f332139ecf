use bytes::Bytes;

use super::{Decoder, Frame, Said, length, read, write};
use crate::{codec::sse::MAX_EVENT, error::Kind};

fn all(pieces: &[&[u8]]) -> Result<Vec<Frame>, crate::error::Error> {
    let mut decoder = Decoder::new(MAX_EVENT);
    let mut out = Vec::new();
    for piece in pieces {
        decoder.push(piece, |frame| {
            out.push(frame);
            Ok(())
        })?;
    }
    decoder.finish()?;
    Ok(out)
}

fn event(name: &str, payload: &str) -> Frame {
    Frame { said: Said::Event, name: name.to_owned(), payload: Bytes::from(payload.to_owned()) }
}

fn stream() -> Vec<u8> {
    let mut out = Vec::new();
    write(Said::Event, "messageStart", br#"{"role":"assistant"}"#, &mut out);
    write(Said::Event, "contentBlockDelta", "{\"text\":\"grüße 🌍\"}".as_bytes(), &mut out);
    write(Said::Event, "empty", b"", &mut out);
    write(Said::Exception, "throttlingException", br#"{"message":"slow down"}"#, &mut out);
    write(Said::Error, "InternalError", b"it broke", &mut out);
    out
}

/// CRC-32 as event streams use it, bit by bit: a second opinion on the library's.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1)))
    })
}

/// A frame of these headers' bytes with checksums that are right.
fn raw(headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let total = (16 + headers.len() + payload.len()) as u32;
    let mut out = [total.to_be_bytes(), (headers.len() as u32).to_be_bytes()].concat();
    out.extend(crc(&out).to_be_bytes());
    out.extend([headers, payload].concat());
    out.extend(crc(&out).to_be_bytes());
    out
}

#[test]
fn frames_are_read_as_they_were_written() {
    let expected = [
        event("messageStart", r#"{"role":"assistant"}"#),
        event("contentBlockDelta", "{\"text\":\"grüße 🌍\"}"),
        event("empty", ""),
        Frame {
            said: Said::Exception,
            name: "throttlingException".to_owned(),
            payload: Bytes::from_static(br#"{"message":"slow down"}"#),
        },
        Frame { said: Said::Error, name: "InternalError".to_owned(), payload: Bytes::from_static(b"it broke") },
    ];
    assert_eq!(all(&[&stream()]).expect("whole"), expected);
}

#[test]
fn a_frame_has_the_bytes_that_the_format_names() {
    let mut ours = Vec::new();
    write(Said::Event, "messageStop", b"{}", &mut ours);
    let mut headers = Vec::new();
    for (name, value) in
        [(":event-type", "messageStop"), (":content-type", "application/json"), (":message-type", "event")]
    {
        headers.push(name.len() as u8);
        headers.extend(name.as_bytes());
        headers.push(7);
        headers.extend((value.len() as u16).to_be_bytes());
        headers.extend(value.as_bytes());
    }
    assert_eq!(ours, raw(&headers, b"{}"));
}

#[test]
fn any_split_gives_the_same_frames() {
    let bytes = stream();
    let whole = all(&[&bytes]).expect("whole");
    for at in 0..=bytes.len() {
        assert_eq!(all(&[&bytes[..at], &bytes[at..]]).expect("split"), whole, "split at {at}");
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(all(&single).expect("bytes"), whole);
    let seven: Vec<&[u8]> = bytes.chunks(7).collect();
    assert_eq!(all(&seven).expect("sevens"), whole);
}

#[test]
fn headers_that_stay_the_same_are_believed_only_with_their_checksums() {
    let mut bytes = Vec::new();
    for (said, name, payload) in [
        (Said::Event, "a", "1"),
        (Said::Event, "a", "22"),
        (Said::Event, "b", "3"),
        (Said::Exception, "a", "4"),
        (Said::Event, "a", ""),
        (Said::Event, "a", "5"),
    ] {
        write(said, name, payload.as_bytes(), &mut bytes);
    }
    let told = all(&[&bytes]).expect("whole");
    let expected = [("a", "1"), ("a", "22"), ("b", "3"), ("a", "4"), ("a", ""), ("a", "5")];
    assert!(told.iter().map(|f| (f.name.as_str(), &f.payload[..])).eq(expected.map(|(n, p)| (n, p.as_bytes()))));
    assert_eq!(told.iter().filter(|frame| frame.said == Said::Exception).count(), 1);
    // Damage in the second of two that are alike.
    let (mut first, mut second) = (Vec::new(), Vec::new());
    write(Said::Event, "a", b"1", &mut first);
    write(Said::Event, "a", b"22", &mut second);
    for bit in 0..second.len() * 8 {
        let mut damaged = second.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(all(&[&first, &damaged]).is_err(), "bit {bit}");
    }
    // What looks the same up to another length of the headers is another.
    let headers = &first[12..first.len() - 5];
    let odd = [raw(headers, b"1"), raw(&headers[..headers.len() - 1], b"1")].concat();
    assert!(all(&[&odd]).is_err());
    assert_eq!(all(&[&raw(headers, b"1"), &raw(&[], &[headers, b"1"].concat())]).expect("readable")[1].name, "");
}

#[test]
fn a_stream_cut_inside_a_frame_never_ends_well() {
    let bytes = stream();
    let ends: Vec<usize> = (1..bytes.len()).filter(|at| all(&[&bytes[..*at]]).is_ok()).collect();
    let mut expected = Vec::new();
    let mut at = 0;
    while let Some(length) = length(&bytes[at..], MAX_EVENT).expect("a length") {
        at += length;
        expected.push(at);
    }
    assert_eq!(expected.pop(), Some(bytes.len()));
    assert_eq!(ends, expected, "only between two frames; not inside the 16 bytes around one either");
}

#[test]
fn a_single_wrong_bit_anywhere_is_an_error() {
    let mut bytes = Vec::new();
    write(Said::Event, "contentBlockDelta", br#"{"text":"x"}"#, &mut bytes);
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let error = all(&[&damaged]).expect_err("damaged");
        assert_eq!(error.kind, Kind::Upstream, "bit {bit}");
    }
}

#[test]
fn a_frame_over_the_limit_is_refused_by_its_length_alone() {
    let mut bytes = Vec::new();
    write(Said::Event, "a", &[b'x'; 200], &mut bytes);
    let mut decoder = Decoder::new(bytes.len());
    decoder.push(&bytes, |_| Ok(())).expect("as long as may be");
    let mut decoder = Decoder::new(bytes.len() - 1);
    let error = decoder.push(&bytes[..12], |_| Ok(())).expect_err("one byte too long");
    assert!(error.message.contains("over"), "{error}");
}

#[test]
fn headers_that_lie_are_errors_and_do_not_panic() {
    let text = |name: &str, value: &str| {
        let mut out = vec![name.len() as u8];
        out.extend(name.as_bytes());
        out.push(7);
        out.extend((value.len() as u16).to_be_bytes());
        out.extend(value.as_bytes());
        out
    };
    // Others' headers are skipped, of any type; a frame without a type is an event without a name.
    let mut odd = text("x", "y");
    odd.extend([1, b'b', 0, 1, b'i', 4, 0, 0, 0, 1]);
    assert_eq!(read(&raw(&odd, b"p")).expect("readable"), event("", "p"));
    assert_eq!(read(&raw(&[], b"")).expect("readable"), event("", ""));
    // Cut at any byte, and with any one byte changed, its checksums still right.
    let headers = [text(":event-type", "contentBlockDelta"), text(":message-type", "event")].concat();
    for at in 0..headers.len() {
        let _ = read(&raw(&headers[..at], b""));
        let _ = read(&raw(&headers[..at], b"payload"));
        for byte in [0, 1, 7, 9, 10, 0x7f, 0x80, 0xff] {
            let mut changed = headers.clone();
            changed[at] = byte;
            let _ = read(&raw(&changed, b"payload"));
            let _ = read(&raw(&changed, b""));
        }
    }
    // Lengths that cannot be.
    for length in [0u32, 1, 11, 12, 15] {
        let mut frame = raw(&[], b"0123456789");
        frame[..4].copy_from_slice(&length.to_be_bytes());
        assert_eq!(all(&[&frame]).expect_err("too short").kind, Kind::Upstream);
    }
}
