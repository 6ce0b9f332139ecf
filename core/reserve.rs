//! Before each attempt: what it may use at most, and the right to make it. Estimates the prompt, takes the answer's bound
//! from the request, the model or what the budget still holds, and asks the permit. Sends nothing.

use crate::{
    account::estimate::Estimates,
    codec::{document::Document, opaque::Asked},
    config::{Rules, UNPRICED},
    context::{self, Step},
    error::{Error, Kind, Result},
    exchange::Exchange,
    limit::{Limits, Need, Permit, Reserved},
    model::{Format, Operation, Units},
    quota::Room,
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
    (limits, rules): (&Limits, &Rules),
) -> Result<Right> {
    let inner = &mut **exchange;
    if !rules.providers.is_empty() {
        let rule = rules.providers.get(&*target.provider.name);
        let permit = inner.permit.as_mut().ok_or_else(no_permit)?;
        limits.visit(&mut inner.bounds, permit, rule, inner.cx.now)?;
    }
    let permit = inner.permit.as_ref().ok_or_else(no_permit)?;
    if !permit.counts() || !inner.cx.operation.spends() {
        let reserved = match inner.permit.as_mut() {
            Some(permit) if permit.counts_late() => granted(exchange, Need::default(), Need::default()).await?,
            Some(permit) => permit.free(),
            None => return Err(no_permit()),
        };
        return Ok(Right { reserved, max_tokens: None });
    }
    let used = inner.used_before();
    // Only a provider's own limits tell its attempts from others.
    let elsewhere =
        if rules.providers.is_empty() { Need::default() } else { inner.used_elsewhere(&target.provider.name) };
    let permit = inner.permit.as_mut().ok_or_else(no_permit)?;
    let input = inner.size.tokens_at((&target.name, &target.at_hand.ratio), estimates);
    let asked = inner.opaque.as_ref().map(|o| o.asked);
    let unpriced = inner.bounds.unpriced();
    let funds = unpriced.map(|unpriced| Funds { unpriced, left: permit.left(elsewhere).unwrap_or(u64::MAX) });
    let wanted = wanted(document, target, inner.cx.operation, asked, input, used, funds);
    let reserved = granted(exchange, wanted.need, elsewhere).await;
    let inner = &mut **exchange;
    inner.limits_told();
    let reserved = reserved?;
    let Wanted { need, fits, max_tokens, .. } = wanted;
    inner.wanted = need;
    if let Some(tokens) = fits {
        let text =
            format!("the budget holds {tokens} tokens of an answer by {}: max_tokens was set to that", target.name);
        inner.cx.trace.note("budget", &text);
    }
    if inner.cx.explain {
        inner.cx.trace.push(told(target, need, funds.is_some(), max_tokens));
    }
    Ok(Right { reserved, max_tokens })
}

/// What has ended holds more than it used until that is written down: who is refused meanwhile asks once more, so that a caller with
/// one request after another is not in its own way.
async fn granted(exchange: &mut Exchange, need: Need, elsewhere: Need) -> Result<Reserved> {
    let done = exchange.settle.done();
    match permit(exchange)?.reserve(need, elsewhere).await {
        Err(error) if matches!(error.kind, Kind::RateLimited | Kind::BudgetExceeded) => {
            if !exchange.settle.caught_up(done).await {
                return Err(error);
            }
            permit(exchange)?.reserve(need, elsewhere).await
        }
        other => other,
    }
}

fn permit(exchange: &mut Exchange) -> Result<&mut Permit> {
    exchange.permit.as_mut().ok_or_else(no_permit)
}

fn no_permit() -> Error {
    Error::new(Kind::Internal, "a call without a permit")
}

/// What an attempt may use at most, for quotas: tokens by their bounds, money by the dearest.
pub fn at_most(exchange: &mut Exchange, document: &Document, target: &Target, estimates: &Estimates) -> Need {
    let inner = &mut **exchange;
    let input = inner.size.tokens_at((&target.name, &target.at_hand.ratio), estimates);
    let opaque = inner.opaque.as_ref().map(|o| o.asked);
    let Wanted { longest, .. } = wanted(document, target, inner.cx.operation, opaque, input, Need::default(), None);
    most(document, target, input, longest, opaque)
}

fn most(document: &Document, target: &Target, input: u64, output: u64, opaque: Option<Asked>) -> Need {
    Need {
        // As for money: an estimate may fall short by so much.
        input_tokens: input + input / 4 + MARGIN,
        output_tokens: output,
        nano_usd: dearest(document, target, input, output, opaque).unwrap_or(UNPRICED),
    }
}

/// The longest answer that a quota still holds, where the request states none and the longest possible one is more than that.
pub fn shortened(
    exchange: &mut Exchange,
    document: &Document,
    target: &Target,
    estimates: &Estimates,
    room: Room,
) -> Option<u64> {
    let inner = &mut **exchange;
    if inner.opaque.is_some() {
        return None;
    }
    let answer = Answer::of(document, target, inner.cx.operation);
    let input = inner.size.tokens_at((&target.name, &target.at_hand.ratio), estimates);
    let fits =
        |output: u64| room.holds(self::most(document, target, input, output.saturating_mul(answer.choices), None));
    if answer.asked.is_some() || fits(answer.most) {
        return None;
    }
    let tokens = fitting(&|output| u64::from(!fits(output)), answer.most, 0)?;
    let text = format!("the quota holds {tokens} tokens of an answer by {}: max_tokens was set to that", target.name);
    inner.cx.trace.note("quota", &text);
    Some(tokens)
}

/// What the tightest of the budgets still holds, and what it counts an attempt without a price as; nano-dollars.
#[derive(Debug, Clone, Copy)]
pub struct Funds {
    pub unpriced: u64,
    pub left: u64,
}

/// What an attempt may use at most.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub need: Need,
    /// The longest answer that the budget still holds, when that is shorter than it may become.
    pub fits: Option<u64>,
    /// What the upstream is told.
    pub max_tokens: Option<u64>,
    /// As long as the answer may become, all choices together.
    pub longest: u64,
}

/// The arithmetic of `reserve`. `input`: tokens of the prompt as they are estimated; `used`: of attempts before.
pub fn wanted(
    document: &Document,
    target: &Target,
    operation: Operation,
    opaque: Option<Asked>,
    input: u64,
    used: Need,
    funds: Option<Funds>,
) -> Wanted {
    let answer = match opaque {
        Some(asked) => Answer::opaque(document, target, operation, asked.pictures),
        None => Answer::of(document, target, operation),
    };
    let most = answer.asked.unwrap_or(answer.most);
    let mut need = Need {
        input_tokens: used.input_tokens + input,
        output_tokens: answer
            .asked
            .unwrap_or(answer.most.min(USUAL_OUTPUT))
            .saturating_mul(answer.choices)
            .saturating_add(used.output_tokens),
        nano_usd: 0,
    };
    let longest = most.saturating_mul(answer.choices);
    let Some(Funds { unpriced, left }) = funds else { return Wanted { need, fits: None, max_tokens: None, longest } };
    let cost = |output: u64| {
        let most = dearest(document, target, input, output.saturating_mul(answer.choices), opaque);
        let most = most.unwrap_or(unpriced);
        // What an opaque answer uses is known only afterwards, and in many units.
        let most = if opaque.is_some() { most.max(unpriced) } else { most };
        most.saturating_add(used.nano_usd)
    };
    // Who said how long the answer may be gets it so long, or not at all.
    let whole = cost(most);
    let fits = if answer.asked.is_none() && whole > left { fitting(&cost, most, left) } else { None };
    need.nano_usd = fits.map_or(whole, &cost);
    let must_say = answer.asked.is_none() && !answer.known && answer.most > 0;
    Wanted { need, fits, max_tokens: fits.or(must_say.then_some(most)), longest }
}

/// The most that an attempt can cost with so long an answer, nano-dollars; `None`: nobody knows.
pub fn dearest(document: &Document, target: &Target, input: u64, output: u64, opaque: Option<Asked>) -> Option<u64> {
    let rates = target.rates.as_ref()?;
    let searches = (rates.sells_searches() && document.may_search()).then_some(MOST_SEARCHES);
    let besides = Units { web_searches: searches, ..opaque.map(Asked::units).unwrap_or_default() };
    let most = rates.most(input + input / 4 + MARGIN, output, &besides);
    Some(u64::try_from(most).unwrap_or(0))
}

/// As the trace of an explained request has it.
pub fn told(target: &Target, need: Need, funded: bool, max_tokens: Option<u64>) -> Step {
    Step::Reserve(Box::new(context::Reserve {
        target: target.name.clone(),
        input_tokens: need.input_tokens,
        output_tokens: need.output_tokens,
        nano_usd: funded.then_some(need.nano_usd),
        max_tokens,
    }))
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
