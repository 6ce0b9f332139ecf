//! Amounts as others write them, in whole nano-dollars: digits with a point and an exponent, never through a float.

/// `0.06`, `1e-7`, `-3`, in units of 10^`scale` nano-dollars (9: dollars, 7: cents), half of one rounded away from zero.
pub fn nano(text: &str, scale: u32) -> Option<i128> {
    let text = text.trim();
    let (text, negative) = match text.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (text.strip_prefix('+').unwrap_or(text), false),
    };
    let text = text.strip_prefix('$').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok().filter(|e| e.abs() <= MOST_EXPONENT)?),
        None => (text, 0),
    };
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && part.is_empty() || whole.len() + part.len() > MOST_DIGITS {
        return None;
    }
    let mut value: i128 = 0;
    for digit in whole.bytes().chain(part.bytes()) {
        value = value.checked_mul(10)?.checked_add(i128::from(digit.is_ascii_digit().then(|| digit - b'0')?))?;
    }
    let shift = i32::try_from(scale).ok()? + exponent - i32::try_from(part.len()).ok()?;
    let power = 10i128.checked_pow(shift.unsigned_abs());
    let value = match (shift >= 0, power) {
        (true, power) => value.checked_mul(power?)?,
        // Less than half of the smallest unit.
        (false, None) => 0,
        (false, Some(power)) => (value + power / 2) / power,
    };
    Some(if negative { -value } else { value })
}

const MOST_DIGITS: usize = 36;
const MOST_EXPONENT: i32 = 60;
