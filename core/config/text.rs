//! Durations, sizes and addresses as people write them. Pure: text in, typed value or one sentence out.

use std::{net::SocketAddr, time::Duration};

/// `500ms`, `2s`, `10m`, `1h30m`, `7d`; at most a year, so that no later sum overflows.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration such as \"500ms\", \"2s\", \"10m\", \"1h30m\" or \"7d\"".to_owned();
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, after) = digits(rest).ok_or_else(wrong)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let scale = DURATIONS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
        total = number.checked_mul(scale).and_then(|n| total.checked_add(n)).unwrap_or(u64::MAX);
        rest = next;
    }
    if total > YEAR {
        return Err("a duration may be at most \"366d\"".to_owned());
    }
    Ok(Duration::from_millis(total))
}

/// `32MiB`, `64KB`, `512` (bytes).
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || "expected a size such as \"64KB\", \"32MiB\", \"1GiB\" or a number of bytes".to_owned();
    let (number, unit) = digits(text.trim()).ok_or_else(wrong)?;
    let unit = unit.trim_start();
    let scale = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?.1;
    number.checked_mul(scale).filter(|n| *n <= i64::MAX as u64).ok_or_else(|| "this size is too large".to_owned())
}

/// `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    if let Some(port) = text.strip_prefix("localhost:") {
        return port.parse().map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port))).map_err(|_| no_port());
    }
    text.parse().map_err(|_| match text.strip_prefix(':').map(str::parse::<u16>) {
        Some(Ok(port)) => {
            format!("which address? Write \"127.0.0.1:{port}\" for this machine only, \"0.0.0.0:{port}\" for all")
        }
        _ => "expected an address and a port such as \"127.0.0.1:8080\" or \"[::1]:8080\"".to_owned(),
    })
}

/// USD as nano-dollars: `"0.075"`, `12`. At most nine digits after the point, so that nothing is rounded.
pub fn usd(text: &str) -> Result<i64, String> {
    let text = text.trim();
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let plain = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(part) || (whole.is_empty() && part.is_empty()) {
        return Err("expected US dollars such as \"2.50\", without a sign or a currency".to_owned());
    }
    if part.trim_end_matches('0').len() > 9 {
        return Err("at most nine digits after the point are counted".to_owned());
    }
    let number = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<i64>().ok() };
    let nano = number(&format!("{:0<9}", part.trim_end_matches('0')));
    let usd = number(whole).filter(|usd| *usd <= MOST_USD);
    usd.zip(nano)
        .map(|(usd, nano)| usd * 1_000_000_000 + nano)
        .ok_or_else(|| format!("at most {MOST_USD} dollars can be stated"))
}

/// The same the other way: all digits that say something.
pub fn decimal(nano: i64) -> String {
    let (sign, size) = (if nano < 0 { "-" } else { "" }, nano.unsigned_abs());
    let part = format!("{:09}", size % 1_000_000_000);
    let text = format!("{sign}{}.{}", size / 1_000_000_000, part.trim_end_matches('0'));
    text.trim_end_matches('.').to_owned()
}

/// So that sums of many fit in 64 bits of nano-dollars.
const MOST_USD: i64 = 1_000_000_000;

/// The nearest of `known` to a mistyped word, if one is near enough to be meant.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let lower = word.to_lowercase();
    let scored = known.into_iter().map(|k| (strsim::damerau_levenshtein(&lower, &k.to_lowercase()), k));
    let (distance, best) = scored.min_by_key(|(d, _)| *d)?;
    let near = distance <= word.chars().count().max(3) / 3 || (word.len() >= 3 && best.starts_with(&lower));
    near.then_some(best)
}

/// `; did you mean `x`?`, or nothing.
pub fn hint<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    nearest(word, known).map(|best| format!("; did you mean `{best}`?")).unwrap_or_default()
}

fn digits(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    Some((number.parse().ok()?, rest))
}

fn no_port() -> String {
    "expected a port number after the colon".to_owned()
}

/// In milliseconds.
const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const YEAR: u64 = 366 * 86_400_000;

const SIZES: [(&str, u64); 9] = [
    ("", 1),
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];
