//! A text in a row, with its quotes.

/// Runs of plain bytes go over as they are; a line break never stands in a row.
pub fn text(value: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = value.as_bytes();
    let mut from = 0;
    // Nearly every text is plain.
    for (at, byte) in bytes.iter().enumerate().take(if has_odd(bytes) { bytes.len() } else { 0 }) {
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => out.extend_from_slice(format!("\\u{other:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

/// Is there a byte that must not stand in a JSON text as it is? Eight at a time; the last eight may have been looked at before.
fn has_odd(bytes: &[u8]) -> bool {
    const EACH: u64 = u64::MAX / 255;
    let less = |word: u64, than: u64| word.wrapping_sub(EACH * than) & !word & EACH << 7;
    let odd = |word: u64| {
        less(word, 0x20) | less(word ^ (EACH * u64::from(b'"')), 1) | less(word ^ (EACH * u64::from(b'\\')), 1)
    };
    let Some(last) = bytes.last_chunk() else {
        return bytes.iter().any(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\');
    };
    let found = odd(u64::from_ne_bytes(*last));
    bytes.as_chunks().0.iter().fold(found, |found, word| found | odd(u64::from_ne_bytes(*word))) != 0
}
