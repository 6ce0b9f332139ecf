//! What a finished request used, where nobody counted it, and what that makes of its reservation: tokens in the limits,
//! money in the budget. Runs once a request, behind the settle queue.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use super::{
    Attempt, Record,
    estimate::{Estimates, Size},
    minute::Minute,
};
use crate::{
    limit::Reservation,
    model::{Operation, Usage},
};

/// Learns from an upstream's count, or stands in for it in the last attempt's row: for an answer whose client left, or whose
/// upstream tells nothing. What was turned away is free, and stays so.
pub(super) fn count(record: &mut Record, size: &Size, estimates: &Estimates) {
    let alone = record.ledger.len() == 1;
    let Some(row) = record
        .ledger
        .last_mut()
        .filter(|_| record.operation != Operation::CountTokens && !record.operation.lacks_model())
    else {
        return;
    };
    let known = row.usage.clone().unwrap_or_default();
    if let (Some(tokens), true, 0) = (known.input_tokens, alone, size.media_bytes) {
        estimates.learn(&row.target, size.text_bytes, tokens);
    }
    let free = row.usage.is_none() && row.cost_nano_usd == Some(0) && size.arrived == 0;
    let lacks = known.input_tokens.is_none() || (known.output_tokens.is_none() && size.arrived > 0);
    // Of a stream that ended early the upstream told what it knew at its beginning, if anything.
    let late = size.cut && size.arrived > known.output_tokens.unwrap_or(0);
    // A picture, a minute of sound or a rerank is known without tokens.
    let by_piece = known.units.is_some() && row.cost_nano_usd.is_some() && known.output_tokens.is_none();
    if free || by_piece || !(lacks || late) {
        return;
    }
    let input = known.input_tokens.unwrap_or_else(|| size.tokens(&row.target, estimates));
    let output = if late || known.output_tokens.is_none() { Some(size.arrived) } else { known.output_tokens };
    let usage = Usage { input_tokens: Some(input), output_tokens: output, ..known };
    let began = Minute::of_id(&record.id).map_or(SystemTime::UNIX_EPOCH, Minute::start);
    row.cost_nano_usd = size.rates.as_ref().and_then(|rates| rates.cost_at(&usage, began));
    row.price = size.rates.as_ref().map(|rates| rates.version).filter(|_| row.cost_nano_usd.is_some());
    row.usage = Some(usage);
    row.estimated = true;
    record.sum_up();
}

/// Says once a target that nobody knows what it costs.
pub(super) fn warn(record: &Record) {
    static SAID: Mutex<BTreeSet<Arc<str>>> = Mutex::new(BTreeSet::new());
    let unpriced = |row: &&Attempt| row.usage.is_some() && row.cost_nano_usd.is_none() && row.price.is_none();
    for row in record.ledger.iter().filter(unpriced) {
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < MOST_SAID && said.insert(row.target.clone()) {
            tracing::warn!(
                target = &*row.target,
                "nobody has a price for this model: what it costs is unknown; state one in [[pricing]]"
            );
        }
    }
}

/// Corrects what was reserved by what was used. An attempt that nobody knows the price of counts as the budget says.
pub(super) fn settle(reservation: Reservation, record: &mut Record) {
    if let Some(unpriced) = reservation.unpriced().and_then(|nano| i64::try_from(nano).ok()) {
        for row in record.ledger.iter_mut().filter(|row| row.cost_nano_usd.is_none()) {
            row.cost_nano_usd = Some(unpriced);
            row.estimated = true;
        }
        record.sum_up();
    }
    let sum = |u: &Usage| u.input_tokens.unwrap_or(0) + u.output_tokens.unwrap_or(0);
    // Tokens of a batch are not of this minute.
    let batches = record.ledger.iter().filter(|row| row.outcome == Attempt::BATCH).filter_map(|row| row.usage.as_ref());
    let tokens = record.usage.as_ref().map_or(0, sum).saturating_sub(batches.map(sum).sum());
    let cost = record.cost_nano_usd.map_or(0, |nano| u64::try_from(nano).unwrap_or(0));
    reservation.settle(tokens, cost);
}

/// Callers make names up.
const MOST_SAID: usize = 1_000;
