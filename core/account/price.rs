//! What usage costs. Whole numbers from the file to the sum: prices in nano-dollars a million tokens, costs in
//! nano-dollars, rounded once an attempt. Pure: usage and prices in, money out.

use crate::{
    config::{PriceTier, Prices},
    model::Usage,
};

/// The prices of one target.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    base: Kinds,
    /// In rising order: the highest one that the input passes holds for the whole request.
    tiers: Box<[(u64, Kinds)]>,
}

/// Every kind of token has its price here; `None`: not known.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Kinds {
    input: Option<i64>,
    cache_read: Option<i64>,
    cache_write: Option<i64>,
    cache_write_1h: Option<i64>,
    input_audio: Option<i64>,
    output: Option<i64>,
    reasoning: Option<i64>,
    output_audio: Option<i64>,
    request: i64,
}

impl Rates {
    pub fn new(prices: &Prices, tiers: &[PriceTier]) -> Rates {
        let tiers = tiers.iter().map(|tier| (tier.above, Kinds::of(&over(prices, &tier.prices)))).collect();
        Rates { base: Kinds::of(prices), tiers }
    }

    /// In nano-dollars, half of one rounded up. `None` when a kind that was used was not reported or has no price:
    /// unknown is never zero.
    pub fn cost(&self, usage: &Usage) -> Option<i64> {
        let input = usage.input_tokens?;
        let kinds = self.kinds(input);
        // An embedding has no output and its model no price for one.
        let output = match (usage.output_tokens, kinds.output) {
            (None, None | Some(0)) => 0,
            (output, _) => output?,
        };
        // Each part is taken out of what is left of its whole, so that no token is counted twice, whatever was reported.
        let mut left = input;
        let mut take = |count: Option<u64>| {
            let part = count.unwrap_or(0).min(left);
            left -= part;
            part
        };
        let hour = take(usage.cache_write_1h_tokens);
        let write = take(usage.cache_write_tokens.map(|all| all.saturating_sub(hour)));
        let read = take(usage.cache_read_tokens);
        let heard = take(usage.input_audio_tokens);
        let mut rest = output;
        let mut take = |count: Option<u64>| {
            let part = count.unwrap_or(0).min(rest);
            rest -= part;
            part
        };
        let spoken = take(usage.output_audio_tokens);
        let thought = take(usage.reasoning_tokens);
        let mut sum: i128 = 0;
        for (count, price) in [
            (left, kinds.input),
            (read, kinds.cache_read),
            (write, kinds.cache_write),
            (hour, kinds.cache_write_1h),
            (heard, kinds.input_audio),
            (rest, kinds.output),
            (thought, kinds.reasoning),
            (spoken, kinds.output_audio),
        ] {
            if count > 0 {
                sum += i128::from(count) * i128::from(price?);
            }
        }
        Some(nano((sum + MILLION / 2) / MILLION + i128::from(kinds.request)))
    }

    /// The most that a request of so many tokens can cost, whatever their kinds turn out to be. Rounded up.
    pub fn most(&self, input_tokens: u64, output_tokens: u64) -> i64 {
        let passed = self.tiers.iter().filter(|(above, _)| input_tokens > *above).map(|(_, kinds)| kinds);
        let of = |kinds: &Kinds| {
            let dearest = |all: &[Option<i64>]| i128::from(all.iter().copied().flatten().max().unwrap_or(0));
            let input = [kinds.input, kinds.cache_read, kinds.cache_write, kinds.cache_write_1h, kinds.input_audio];
            let output = [kinds.output, kinds.reasoning, kinds.output_audio];
            let sum = i128::from(input_tokens) * dearest(&input) + i128::from(output_tokens) * dearest(&output);
            nano((sum + MILLION - 1) / MILLION + i128::from(kinds.request))
        };
        // The lower prices count too: an estimate of the input may be too high.
        passed.chain([&self.base]).map(of).max().unwrap_or(0)
    }

    /// Do prices depend on the service that was asked for?
    pub fn differ_by_service(&self) -> bool {
        false
    }

    /// USD per million tokens, for stages that compare.
    pub fn input_usd(&self) -> Option<f64> {
        self.base.input.map(usd)
    }

    pub fn output_usd(&self) -> Option<f64> {
        self.base.output.map(usd)
    }

    fn kinds(&self, input_tokens: u64) -> &Kinds {
        self.tiers.iter().rev().find(|(above, _)| input_tokens > *above).map_or(&self.base, |(_, kinds)| kinds)
    }
}

impl Kinds {
    /// A kind without a price of its own costs what the kind costs that it is a part of.
    fn of(prices: &Prices) -> Kinds {
        let Prices {
            input,
            output,
            cache_read,
            cache_write,
            cache_write_1h,
            reasoning,
            input_audio,
            output_audio,
            request,
        } = *prices;
        // A price a request, and none for tokens: tokens are free.
        let free = (input.is_none() && request.is_some()).then_some(0);
        let input = input.or(free);
        let output = output.or(free);
        Kinds {
            input,
            cache_read: cache_read.or(input),
            cache_write: cache_write.or(input),
            cache_write_1h: cache_write_1h.or(cache_write).or(input),
            input_audio: input_audio.or(input),
            output,
            reasoning: reasoning.or(output),
            output_audio: output_audio.or(output),
            request: request.unwrap_or(0),
        }
    }
}

/// The tier's prices, and the base's where it has none.
fn over(base: &Prices, tier: &Prices) -> Prices {
    Prices {
        input: tier.input.or(base.input),
        output: tier.output.or(base.output),
        cache_read: tier.cache_read.or(base.cache_read),
        cache_write: tier.cache_write.or(base.cache_write),
        cache_write_1h: tier.cache_write_1h.or(base.cache_write_1h),
        reasoning: tier.reasoning.or(base.reasoning),
        input_audio: tier.input_audio.or(base.input_audio),
        output_audio: tier.output_audio.or(base.output_audio),
        request: tier.request.or(base.request),
    }
}

/// Nano-dollars as USD, all their digits and no more: `0.0000125`, `3`.
pub fn usd_text(nano: i64) -> String {
    let mut out = Vec::with_capacity(24);
    write_usd(nano, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// The same into a buffer: this stands on every answer whose price is known.
pub fn write_usd(nano: i64, out: &mut Vec<u8>) {
    let size = nano.unsigned_abs();
    if nano < 0 {
        out.push(b'-');
    }
    let mut whole = [0; 20];
    let mut at = whole.len();
    let mut rest = size / BILLION;
    loop {
        at -= 1;
        whole[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&whole[at..]);
    let mut part = size % BILLION;
    if part == 0 {
        return;
    }
    let mut digits = [b'0'; 9];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (part % 10) as u8;
        part /= 10;
    }
    let end = digits.iter().rposition(|d| *d != b'0').map_or(0, |last| last + 1);
    out.push(b'.');
    out.extend_from_slice(&digits[..end]);
}

fn nano(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(i64::MAX)
}

fn usd(nano: i64) -> f64 {
    nano as f64 / BILLION as f64
}

const MILLION: i128 = 1_000_000;
const BILLION: u64 = 1_000_000_000;
