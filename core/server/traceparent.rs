//! W3C Trace Context, level 1: `traceparent` in, and out with an id of our own.
//!
//! `tracestate` is the caller's list and goes on as it came; it is not kept here.

use std::fmt;

use http::HeaderValue;

/// Where a request stands in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub trace: u128,
    /// The caller's span.
    pub parent: Option<u64>,
    /// Our span.
    pub span: u64,
    pub flags: u8,
}

impl TraceContext {
    /// Goes on with the caller's trace, or begins one when it sent none that holds.
    pub fn from_header(value: Option<&HeaderValue>) -> Self {
        let caller = value.and_then(|v| v.to_str().ok()).and_then(parse);
        match caller {
            Some((trace, parent, flags)) => TraceContext { trace, parent: Some(parent), span: id(), flags },
            None => {
                TraceContext { trace: u128::from(id()) << 64 | u128::from(id()), parent: None, span: id(), flags: 0 }
            }
        }
    }

    /// For one upstream call: the same trace, a span of its own below ours.
    pub fn child(&self) -> Self {
        TraceContext { parent: Some(self.span), span: id(), ..*self }
    }

    pub fn sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// Written digit by digit: this stands on every call.
    pub fn header(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut text[3..19], (self.trace >> 64) as u64);
        write_hex(&mut text[19..35], self.trace as u64);
        write_hex(&mut text[36..52], self.span);
        write_hex(&mut text[53..55], u64::from(self.flags));
        // Hex digits and dashes are always a header's value.
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// `00-<trace>-<parent>-<flags>`, §3.2: lower-case hex, neither id zero; later versions may add fields, `ff` is none.
fn parse(text: &str) -> Option<(u128, u64, u8)> {
    let version = hex(text.get(..2)?, 2)?;
    let rest = text.get(55..)?;
    let longer_is_fine = version != 0 && rest.starts_with('-');
    if version == 0xff || !(rest.is_empty() || longer_is_fine) {
        return None;
    }
    if [2, 35, 52].into_iter().any(|at| text.as_bytes().get(at) != Some(&b'-')) {
        return None;
    }
    let trace = hex(text.get(3..35)?, 32)?;
    let parent = u64::try_from(hex(text.get(36..52)?, 16)?).ok()?;
    // Of a later version's flags only the bit that we know is passed on.
    let flags = u8::try_from(hex(text.get(53..55)?, 2)?).ok()? & 1;
    (trace != 0 && parent != 0).then_some((trace, parent, flags))
}

fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if lower { u128::from_str_radix(text, 16).ok() } else { None }
}

/// The lowest digits, as many as there is room for.
fn write_hex(text: &mut [u8], mut number: u64) {
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

fn id() -> u64 {
    fastrand::u64(1..)
}
