//! What a finished request used, where nobody counted it, and what that makes of its reservation: tokens in the limits,
//! money in the budget. Runs once a request, behind the settle queue.

use super::{
    Record,
    estimate::{Estimates, Size},
};
use crate::{
    limit::Reservation,
    model::{Operation, Usage},
};

/// Learns from an upstream's count, or stands in for it: for an answer whose client left, or whose upstream tells nothing.
/// What was never sent, or was refused, used nothing.
pub(super) fn count(record: &mut Record, size: &Size, estimates: &Estimates) {
    let Some(target) = &record.target else { return };
    if record.operation == Operation::CountTokens {
        return;
    }
    let known = record.usage.clone().unwrap_or_default();
    if let (Some(tokens), 1, 0) = (known.input_tokens, record.attempts, size.media_bytes) {
        estimates.learn(target, size.text_bytes, tokens);
    }
    let answered = record.status == 200 || size.arrived > 0;
    let lacks = known.input_tokens.is_none() || (known.output_tokens.is_none() && size.arrived > 0);
    // Of a stream that ended early the upstream told what it knew at its beginning, if anything.
    let late = size.cut && size.arrived > known.output_tokens.unwrap_or(0);
    if !(size.under_way && known == Usage::default() || answered && (lacks || late)) {
        return;
    }
    let input = known.input_tokens.unwrap_or_else(|| size.tokens(target, estimates));
    let output = if late || known.output_tokens.is_none() { Some(size.arrived) } else { known.output_tokens };
    record.usage = Some(Usage { input_tokens: Some(input), output_tokens: output, ..known });
    record.usage_estimated = true;
}

/// Corrects what was reserved by what was used.
pub(super) fn settle(reservation: Reservation, record: &mut Record, size: &Size) {
    let usage = record.usage.as_ref();
    let tokens = usage.map_or(0, |u| u.input_tokens.unwrap_or(0) + u.output_tokens.unwrap_or(0));
    if let (None, Some(usage)) = (record.cost_nano_usd, usage) {
        let cost = size.rates.as_ref().and_then(|rates| rates.cost(usage));
        record.cost_nano_usd = cost.or_else(|| i64::try_from(reservation.unpriced()?).ok());
    }
    let cost = record.cost_nano_usd.map_or(0, |nano| u64::try_from(nano).unwrap_or(0));
    reservation.settle(tokens, cost);
}
