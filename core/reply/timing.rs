//! `server-timing` of an answer: what of its time was the gateway's, what the upstream's, and which stages were slow. Written
//! without the formatter, because it stands on every answer. Measures nothing itself.

use std::time::Duration;

use http::HeaderValue;

use crate::{
    context::{Step, Trace},
    exchange::Exchange,
};

/// `more`: of the attempt that still runs.
pub(super) fn server_timing(exchange: &Exchange, more: Duration) -> HeaderValue {
    let total = exchange.lasted();
    let upstream = exchange.record.upstream_duration + more;
    let gateway = total.saturating_sub(upstream);
    // Milliseconds with two places, in whole numbers: this stands on every answer.
    let (g, u) = (gateway.as_micros() / 10, upstream.as_micros() / 10);
    let mut text = ArrayText::default();
    text.push(b"gateway;dur=");
    text.hundredths(g);
    text.push(b", upstream;dur=");
    text.hundredths(u);
    if exchange.cx.trace.slow {
        return with_stages(&text, &exchange.cx.trace);
    }
    HeaderValue::from_bytes(text.bytes()).unwrap_or(HeaderValue::from_static("gateway"))
}

/// `stage;dur=…;desc="scripts/route.rhai"` for each stage that was slow: all of its time so far.
fn with_stages(text: &ArrayText, trace: &Trace) -> HeaderValue {
    let mut all: Vec<(&str, Duration, bool)> = Vec::new();
    for step in &trace.steps {
        let Step::Stage { stage, took, slow, .. } = step else { continue };
        match all.iter_mut().find(|(name, ..)| *name == &**stage) {
            Some(known) => (known.1, known.2) = (known.1 + *took, known.2 || *slow),
            None => all.push((stage, *took, *slow)),
        }
    }
    let mut out = String::from_utf8_lossy(text.bytes()).into_owned();
    for (name, took, _) in all.into_iter().filter(|(_, _, slow)| *slow).take(MOST_STAGES) {
        // A file's name in a quoted string: what would end it is left out.
        let name: String = name.chars().filter(|c| !matches!(c, '"' | '\\') && !c.is_control()).collect();
        out.push_str(&format!(", stage;dur={:.2};desc=\"{name}\"", took.as_secs_f64() * 1e3));
    }
    HeaderValue::from_bytes(out.as_bytes()).unwrap_or(HeaderValue::from_static("gateway"))
}

const MOST_STAGES: usize = 8;

/// A short text, written without the formatter.
struct ArrayText {
    bytes: [u8; 80],
    length: usize,
}

impl Default for ArrayText {
    fn default() -> Self {
        ArrayText { bytes: [0; 80], length: 0 }
    }
}

impl ArrayText {
    /// What does not fit is left out.
    fn push(&mut self, more: &[u8]) {
        let room = &mut self.bytes[self.length..];
        let fits = more.len().min(room.len());
        room[..fits].copy_from_slice(&more[..fits]);
        self.length += fits;
    }

    /// `1234` as `12.34`.
    fn hundredths(&mut self, number: u128) {
        let mut digits = [b'0'; 24];
        let (mut left, mut at) = (u64::try_from(number).unwrap_or(u64::MAX), digits.len());
        while left > 0 || digits.len() - at < 3 {
            at -= 1;
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
        }
        let (whole, part) = digits[at..].split_at(digits.len() - at - 2);
        self.push(whole);
        self.push(b".");
        self.push(part);
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
