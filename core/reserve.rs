//! Before each attempt: what it may use at most, and the right to make it. Estimates the prompt, takes the answer's bound
//! from the request, the model or what the budget still holds, and asks the permit. Sends nothing.

use crate::{
    account::estimate::Estimates,
    codec::{document::Document, opaque::Asked},
    error::{Error, Kind, Result},
    exchange::Exchange,
    limit::{Need, Reserved},
    model::{Format, Operation, Units},
    route::Target,
};

/// The right to one attempt.
pub struct Right {
    pub reserved: Reserved,
    /// What the answer may have at most, when the request does not say it and it must be said to the upstream.
    pub max_tokens: Option<u64>,
}

/// Tokens and money for an attempt at `target`, on top of what attempts before it used. Costs nothing for a caller
/// without limits.
pub async fn reserve(
    exchange: &mut Exchange,
    document: &Document,
    target: &Target,
    estimates: &Estimates,
) -> Result<Right> {
    let inner = &mut **exchange;
    let no_permit = || Error::new(Kind::Internal, "a call without a permit");
    let permit = inner.permit.as_ref().ok_or_else(no_permit)?;
    if !permit.counts() || !inner.cx.operation.spends() {
        return Ok(Right { reserved: permit.free(), max_tokens: None });
    }
    let (used_tokens, used_nano) = inner.used_before();
    let permit = inner.permit.as_mut().ok_or_else(no_permit)?;
    let input = inner.size.tokens(&target.name, estimates);
    let answer = match &inner.opaque {
        Some(opaque) => Answer::opaque(document, target, inner.cx.operation, opaque.asked.pictures),
        None => Answer::of(document, target, inner.cx.operation),
    };
    let mut need = Need {
        input_tokens: used_tokens + input,
        output_tokens: answer.asked.unwrap_or(answer.most.min(USUAL_OUTPUT)).saturating_mul(answer.choices),
        nano_usd: 0,
    };
    let Some(budget) = inner.bounds.budget() else {
        return Ok(Right { reserved: permit.reserve(need).await?, max_tokens: None });
    };
    let opaque = inner.opaque.as_ref().map(|o| o.asked);
    let sells = target.rates.as_ref().is_some_and(|rates| rates.sells_searches());
    let searches = (sells && document.has_tools()).then_some(MOST_SEARCHES);
    let besides = Units { web_searches: searches, ..opaque.map(Asked::units).unwrap_or_default() };
    let with_margin = input + input / 4 + MARGIN;
    let cost = |output: u64| {
        let output = output.saturating_mul(answer.choices);
        let most = target.rates.as_ref().map(|rates| rates.most(with_margin, output, &besides));
        let most = most.map_or(budget.unpriced_nano_usd, |nano| u64::try_from(nano).unwrap_or(0));
        // What an opaque answer uses is known only afterwards, and in many units.
        let most = if opaque.is_some() { most.max(budget.unpriced_nano_usd) } else { most };
        most.saturating_add(used_nano)
    };
    let most = answer.asked.unwrap_or(answer.most);
    let left = permit.left().unwrap_or(u64::MAX);
    // Who said how long the answer may be gets it so long, or not at all.
    let fits = if answer.asked.is_none() && cost(most) > left { fitting(&cost, most, left) } else { None };
    need.nano_usd = cost(fits.unwrap_or(most));
    let reserved = permit.reserve(need).await?;
    let must_say = answer.asked.is_none() && !answer.known && answer.most > 0;
    let max_tokens = fits.or(must_say.then_some(most));
    if let Some(tokens) = fits {
        let text =
            format!("the budget holds {tokens} tokens of an answer by {}: max_tokens was set to that", target.name);
        inner.cx.trace.note("budget", &text);
    }
    Ok(Right { reserved, max_tokens })
}

/// How long an answer may become.
struct Answer {
    /// By the request, for each choice.
    asked: Option<u64>,
    /// By the model.
    most: u64,
    /// `most` is the model's own bound, or is sent along anyway.
    known: bool,
    choices: u64,
}

impl Answer {
    fn of(document: &Document, target: &Target, operation: Operation) -> Answer {
        if operation == Operation::Compact {
            return Answer { asked: Some(UNKNOWN_OUTPUT), most: UNKNOWN_OUTPUT, known: true, choices: 1 };
        }
        if operation != Operation::Chat {
            return Answer { asked: None, most: 0, known: true, choices: 1 };
        }
        let bound = document.output_bound();
        let (most, known) = match target.limits.output {
            // Its format wants a bound, and gets this one.
            _ if target.provider.format == Format::AnthropicMessages => (target.dialect.default_max_tokens, true),
            Some(output) => (output, true),
            None => (UNKNOWN_OUTPUT, false),
        };
        Answer { asked: bound.tokens, most, known, choices: bound.choices.max(1) }
    }

    /// Of what no codec reads: nothing can be said to its upstream, so this is only reserved.
    fn opaque(document: &Document, target: &Target, operation: Operation, pictures: u64) -> Answer {
        let tokens = match operation {
            Operation::Passthrough => {
                let can = target.limits.output.unwrap_or(UNKNOWN_OUTPUT);
                document.output_bound().tokens.unwrap_or(can)
            }
            Operation::Transcription | Operation::Translation => UNKNOWN_OUTPUT,
            _ => pictures.saturating_mul(PICTURE_TOKENS),
        };
        Answer { asked: Some(tokens), most: tokens, known: true, choices: 1 }
    }
}

/// The longest answer, shorter than `most`, whose cost is left; `None` when hardly one is.
fn fitting(cost: &impl Fn(u64) -> u64, most: u64, left: u64) -> Option<u64> {
    let (mut fits, mut not) = (LEAST_OUTPUT, most);
    if most <= fits || cost(fits) > left {
        return None;
    }
    while not - fits > 1 {
        let middle = fits + (not - fits) / 2;
        if cost(middle) <= left { fits = middle } else { not = middle }
    }
    Some(fits)
}

/// What an answer without a stated length counts as in tokens a minute, until it is there.
const USUAL_OUTPUT: u64 = 1024;
/// Of one picture, at the largest size and the best quality that token prices are stated for.
const PICTURE_TOKENS: u64 = 6240;
/// Of a model that nobody knows; it is told this bound.
const UNKNOWN_OUTPUT: u64 = 8192;
/// An answer cut shorter than this would help nobody.
const LEAST_OUTPUT: u64 = 256;
/// Of the web, that a provider runs for one answer with tools; few run more.
const MOST_SEARCHES: u64 = 10;
/// Tokens around a prompt's text.
const MARGIN: u64 = 32;
