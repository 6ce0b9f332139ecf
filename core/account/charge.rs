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
    config::UNPRICED,
    limit::{Need, Reservation},
    model::{Operation, Usage},
    quota::Taken,
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
    if let (Some(tokens), true, 0) = (known.input_tokens, alone && !row.estimated, size.media_bytes) {
        estimates.learn(&row.target, size.text_bytes, tokens);
    }
    let free = row.usage.is_none() && row.cost_nano_usd == Some(0) && size.arrived == 0;
    let lacks = known.input_tokens.is_none() || (known.output_tokens.is_none() && size.arrived > 0);
    let came = size.answered(known.output_tokens);
    let late = came.is_some() && known.output_tokens.is_some();
    // A picture, a minute of sound or a rerank is known without tokens.
    let by_piece = known.units.is_some() && row.cost_nano_usd.is_some() && known.output_tokens.is_none();
    if free || by_piece || !(lacks || late) {
        return;
    }
    let input = known.input_tokens.unwrap_or_else(|| size.tokens(&row.target, estimates));
    let output = came.or(known.output_tokens);
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
    let tokens = |usage: Option<&Usage>| Need {
        input_tokens: usage.and_then(|u| u.input_tokens).unwrap_or(0),
        output_tokens: usage.and_then(|u| u.output_tokens).unwrap_or(0),
        nano_usd: 0,
    };
    let nano = |cost: Option<i64>| cost.map_or(0, |nano| u64::try_from(nano).unwrap_or(0));
    let sum = |rows: &mut dyn Iterator<Item = &Attempt>| {
        rows.fold(Need::default(), |sum, row| {
            let own = tokens(row.usage.as_ref());
            Need {
                input_tokens: sum.input_tokens.saturating_add(own.input_tokens),
                output_tokens: sum.output_tokens.saturating_add(own.output_tokens),
                nano_usd: sum.nano_usd.saturating_add(nano(row.cost_nano_usd)),
            }
        })
    };
    // Tokens of a batch are not of this minute.
    let batches = sum(&mut record.ledger.iter().filter(|row| row.outcome == Attempt::BATCH));
    let used = Need {
        nano_usd: nano(record.cost_nano_usd),
        ..tokens(record.usage.as_ref()).without(Need { nano_usd: 0, ..batches })
    };
    let at = |provider: &str| {
        let mine = |row: &&Attempt| {
            // Nobody's name has a slash.
            row.target.as_bytes().get(provider.len()) == Some(&b'/') && row.target.starts_with(provider)
        };
        let all = sum(&mut record.ledger.iter().filter(mine));
        let batches = sum(&mut record.ledger.iter().filter(mine).filter(|row| row.outcome == Attempt::BATCH));
        all.without(Need { nano_usd: 0, ..batches })
    };
    reservation.settle(used, at);
}

/// What providers' quotas lose, attempt by attempt. What never reached the provider is given back.
pub(super) fn quotas(taken: Vec<Taken>, record: &Record) {
    for taken in taken {
        let Some(row) = record.ledger.iter().find(|row| row.number == taken.attempt()) else { continue };
        if UNSENT.contains(&&*row.outcome) {
            taken.release();
            continue;
        }
        let free = row.usage.is_none() && row.cost_nano_usd == Some(0);
        let used = row.usage.as_ref().map(|usage| Need {
            input_tokens: usage.input_tokens.unwrap_or(0),
            output_tokens: usage.output_tokens.unwrap_or(0),
            nano_usd: row.cost_nano_usd.map_or(UNPRICED, |nano| u64::try_from(nano).unwrap_or(0)),
        });
        taken.settle(used.or(free.then(Need::default)));
    }
}

/// Failures before anything was sent.
const UNSENT: [&str; 2] = ["connect_timeout", "connection_refused"];
/// Callers make names up.
const MOST_SAID: usize = 1_000;
