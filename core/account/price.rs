//! What usage costs. Whole numbers from the file to the sum: prices in nano-dollars a million tokens, costs in
//! nano-dollars, rounded once an attempt. Pure: usage and prices in, money out.

mod flat;
mod function;
mod version;

use std::time::SystemTime;

pub use flat::Flat;
pub use function::{Asked, Function};
pub use version::Version;

use crate::{
    config::{PriceService, PriceSheet, Prices},
    model::{ServiceTier, Units, Usage},
};

/// The prices of one target.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    /// Of all that they say.
    pub version: Version,
    usual: Plan,
    services: Box<[(ServiceTier, Plan)]>,
    /// What makes the cost, where it is no table.
    function: Option<function::Bound>,
}

/// The prices of one service.
#[derive(Debug, Clone, PartialEq)]
struct Plan {
    base: Kinds,
    /// In rising order: the highest one that the input passes holds for the whole request.
    tiers: Box<[(u64, Kinds)]>,
}

/// Every kind of token has its price here; `None`: not known.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Kinds {
    input: Option<i64>,
    cache_read: Option<i64>,
    cache_read_audio: Option<i64>,
    cache_write: Option<i64>,
    cache_write_1h: Option<i64>,
    input_audio: Option<i64>,
    input_image: Option<i64>,
    output: Option<i64>,
    reasoning: Option<i64>,
    output_audio: Option<i64>,
    output_image: Option<i64>,
    request: i64,
    /// There are pieces with a price and no tokens with one: what counts neither is unknown.
    by_piece: bool,
    characters: Option<i64>,
    per_image: Option<i64>,
    per_input_image: Option<i64>,
    per_input_second: Option<i64>,
    per_output_second: Option<i64>,
    per_search: Option<i64>,
    per_search_unit: Option<i64>,
    per_search_request: Option<i64>,
}

impl Rates {
    pub fn new(sheet: &PriceSheet) -> Rates {
        let PriceSheet { prices, tiers, services } = sheet;
        // What a request with more than so many tokens costs, at the usual service.
        let usual = |above: u64| {
            let tier = tiers.iter().rev().find(|tier| tier.above <= above);
            tier.map_or(*prices, |tier| tier.prices.over(prices))
        };
        let plan = |service: &PriceService, factor: i64| {
            let own = |above: u64| {
                let tier = service.tiers.iter().rev().find(|tier| tier.above <= above);
                let own = tier.map_or(service.prices, |tier| tier.prices.over(&service.prices));
                own.over(&usual(above).times(service.factor.unwrap_or(ONE))).times(factor)
            };
            let mut steps: Vec<u64> = tiers.iter().chain(&service.tiers).map(|tier| tier.above).collect();
            steps.sort_unstable();
            steps.dedup();
            Plan::new(own(0), steps, own)
        };
        let mut plans: Vec<_> = services.iter().map(|service| (service.service, plan(service, ONE))).collect();
        // What is kept within a country is dearer by the same part, however it is served.
        let within = services.iter().find(|service| service.service == ServiceTier::Us).and_then(|us| us.factor);
        if let Some(factor) = within {
            let others = services.iter().filter(|of| matches!(of.service, ServiceTier::Fast | ServiceTier::Batch));
            plans.extend(others.map(|of| (of.service.within_us(), plan(of, factor))));
        }
        let services = plans.into();
        let usual = Plan::new(*prices, tiers.iter().map(|tier| tier.above), usual);
        Rates { version: Version::of(sheet), usual, services, function: None }
    }

    /// In nano-dollars, half of one rounded up. `None` when a kind that was used was not reported or has no price:
    /// unknown is never zero.
    pub fn cost(&self, usage: &Usage) -> Option<i64> {
        self.made(usage, None)
    }

    /// The same for a request that began at that time, where prices go by it.
    pub fn cost_at(&self, usage: &Usage, at: SystemTime) -> Option<i64> {
        self.made(usage, Some(at))
    }

    fn made(&self, usage: &Usage, at: Option<SystemTime>) -> Option<i64> {
        match &self.function {
            Some(function) => function.price(usage, at, 1),
            None => self.plan(usage.service_tier).kinds(usage.input_tokens.unwrap_or(0)).cost(usage, 1),
        }
    }

    /// Of so many requests together, of which none is known alone: at the prices of short ones.
    pub fn cost_together(&self, usage: &Usage, requests: u64) -> Option<i64> {
        match &self.function {
            Some(function) => function.price(usage, None, requests),
            None => self.plan(usage.service_tier).base.cost(usage, requests),
        }
    }

    /// About what a request of so many tokens costs, nano-dollars: for comparing many targets at once.
    pub fn about(&self, input_tokens: u64, output_tokens: f64) -> Option<f64> {
        if self.function.is_some() {
            let output = Some(output_tokens as u64);
            let usage = Usage { input_tokens: Some(input_tokens), output_tokens: output, ..Usage::default() };
            return self.cost(&usage).map(|nano| nano as f64);
        }
        let kinds = self.usual.kinds(input_tokens);
        let output = if output_tokens > 0.0 { kinds.output? as f64 * output_tokens } else { 0.0 };
        Some((kinds.input? as f64 * input_tokens as f64 + output) / MILLION as f64 + kinds.request as f64)
    }

    /// The most that a request of so many tokens can cost, whatever their kinds turn out to be, whichever service answers,
    /// and with so much besides. Rounded up.
    pub fn most(&self, input_tokens: u64, output_tokens: u64, units: &Units) -> i64 {
        let of = |kinds: &Kinds| {
            let dearest = |all: &[Option<i64>]| i128::from(all.iter().copied().flatten().max().unwrap_or(0));
            let input = [
                kinds.input,
                kinds.cache_read,
                kinds.cache_read_audio,
                kinds.cache_write,
                kinds.cache_write_1h,
                kinds.input_audio,
                kinds.input_image,
            ];
            let output = [kinds.output, kinds.reasoning, kinds.output_audio, kinds.output_image];
            let sum = i128::from(input_tokens) * dearest(&input) + i128::from(output_tokens) * dearest(&output);
            let pieces: i128 = kinds.each(units).iter().map(|(_, _, cost)| cost.unwrap_or(0)).sum();
            nano((sum + pieces + MILLION - 1).div_euclid(MILLION) + i128::from(kinds.request))
        };
        // The lower prices count too: an estimate of the input may be too high.
        let plans = self.services.iter().map(|(_, plan)| plan).chain([&self.usual]);
        let most = plans.flat_map(|plan| plan.up_to(input_tokens)).map(of).max().unwrap_or(0);
        let now = || Some(SystemTime::now());
        self.function.as_ref().map_or(most, |f| f.most(input_tokens, output_tokens, units, now()).max(most))
    }

    /// Do prices depend on the service that was asked for?
    pub fn differ_by_service(&self) -> bool {
        !self.services.is_empty() || self.function.is_some()
    }

    /// Does it sell searches beside tokens?
    pub fn sells_searches(&self) -> bool {
        let Kinds { per_search, per_search_request, .. } = self.usual.base;
        [per_search, per_search_request].iter().flatten().any(|price| *price > 0) || self.function.is_some()
    }

    /// USD per million tokens, for stages that compare.
    pub fn input_usd(&self) -> Option<f64> {
        self.usual.base.input.map(usd)
    }

    pub fn output_usd(&self) -> Option<f64> {
        self.usual.base.output.map(usd)
    }

    /// A service without prices of its own costs what is usual.
    fn plan(&self, service: Option<ServiceTier>) -> &Plan {
        let own = |service| self.services.iter().find(|(of, _)| *of == service).map(|(_, plan)| plan);
        let Some(service) = service else { return &self.usual };
        // Where a fast one has no price, the place still has.
        let near =
            || if service.anywhere() == service { None } else { own(service.anywhere()).or(own(ServiceTier::Us)) };
        own(service).or_else(near).unwrap_or(&self.usual)
    }
}

impl Plan {
    fn new(base: Prices, steps: impl IntoIterator<Item = u64>, at: impl Fn(u64) -> Prices) -> Plan {
        let tiers = steps.into_iter().map(|above| (above, Kinds::of(&at(above)))).collect();
        Plan { base: Kinds::of(&base), tiers }
    }

    fn kinds(&self, input_tokens: u64) -> &Kinds {
        self.tiers.iter().rev().find(|(above, _)| input_tokens > *above).map_or(&self.base, |(_, kinds)| kinds)
    }

    /// All that hold for a request of so much input or less.
    fn up_to(&self, input_tokens: u64) -> impl Iterator<Item = &Kinds> {
        let passed = self.tiers.iter().filter(move |(above, _)| input_tokens > *above).map(|(_, kinds)| kinds);
        passed.chain([&self.base])
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
            input_image,
            output_image,
            characters,
            request,
            per_image,
            per_input_image,
            per_input_second,
            per_output_second,
            per_search,
            per_search_unit,
            cache_read_audio,
            per_search_request,
        } = *prices;
        let pieces = [characters, per_image, per_input_image, per_input_second, per_output_second, per_search_unit];
        let has_pieces = pieces.iter().any(Option::is_some);
        let by_piece = has_pieces && input.is_none() && input_audio.is_none() && request.is_none();
        // A price a request or a piece, and none for tokens: tokens are free.
        let free = (input.is_none() && (request.is_some() || has_pieces)).then_some(0);
        let input = input.or(free);
        let output = output.or(free);
        Kinds {
            input,
            cache_read: cache_read.or(input),
            cache_read_audio: cache_read_audio.or(cache_read).or(input_audio).or(input),
            cache_write: cache_write.or(input),
            cache_write_1h: cache_write_1h.or(cache_write).or(input),
            input_audio: input_audio.or(input),
            input_image: input_image.or(input),
            output,
            reasoning: reasoning.or(output),
            output_audio: output_audio.or(output),
            output_image: output_image.or(output),
            request: request.unwrap_or(0),
            by_piece,
            characters,
            per_image,
            per_input_image,
            per_input_second,
            per_output_second,
            per_search,
            per_search_unit,
            per_search_request,
        }
    }

    /// See `Rates::cost`. A price a request counts for each of `requests`.
    fn cost(&self, usage: &Usage, requests: u64) -> Option<i64> {
        let units = usage.units();
        let (pieces, counted) = self.pieces(usage, &units);
        if self.by_piece && !counted {
            return None;
        }
        let (input, output) = match usage.billed {
            Some(billed) => (billed.input_tokens, billed.output_tokens),
            None => (usage.input_tokens, usage.output_tokens),
        };
        let input = match input {
            // What is billed by the piece may have no tokens.
            None if counted => 0,
            input => input?,
        };
        // An embedding has no output and its model no price for one.
        let output = match (output, self.output) {
            (None, None | Some(0)) => 0,
            (None, _) if counted => 0,
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
        // Cached tokens are of those that were read, which need not be those that are billed. Sound that was cached is told
        // among both.
        let cached = usage.cache_read_tokens.filter(|_| usage.billed.is_none());
        let both = units.cache_read_audio_tokens.unwrap_or(0).min(cached.unwrap_or(0));
        let both = both.min(usage.input_audio_tokens.unwrap_or(both));
        let replayed = take(Some(both));
        let read = take(cached.map(|all| all - both));
        let heard = take(usage.input_audio_tokens.map(|all| all.saturating_sub(both)));
        let seen = take(units.input_image_tokens);
        let mut rest = output;
        let mut take = |count: Option<u64>| {
            let part = count.unwrap_or(0).min(rest);
            rest -= part;
            part
        };
        let spoken = take(usage.output_audio_tokens);
        let drawn = take(units.output_image_tokens);
        let thought = take(usage.reasoning_tokens);
        let mut sum = pieces;
        for (count, price) in [
            (left, self.input),
            (read, self.cache_read),
            (replayed, self.cache_read_audio),
            (write, self.cache_write),
            (hour, self.cache_write_1h),
            (heard, self.input_audio),
            (seen, self.input_image),
            (rest, self.output),
            (thought, self.reasoning),
            (spoken, self.output_audio),
            (drawn, self.output_image),
        ] {
            if count > 0 {
                sum += i128::from(count) * i128::from(price?);
            }
        }
        Some(nano((sum + MILLION / 2).div_euclid(MILLION) + i128::from(requests) * i128::from(self.request)))
    }

    /// What costs by the piece, in millionths of a nano-dollar, and whether any of it is what was bought: not a search on the
    /// way to an answer in tokens. What is counted in tokens as well is not charged again.
    fn pieces(&self, usage: &Usage, units: &Units) -> (i128, bool) {
        let none = |tokens: Option<u64>| tokens.unwrap_or(0) == 0;
        let (mut sum, mut counted) = (0, false);
        for (piece, bought, cost) in self.each(units) {
            let again = match piece {
                Piece::Characters => self.input.is_some_and(|price| price > 0) && !none(usage.input_tokens),
                Piece::InputSound => !none(usage.input_audio_tokens),
                Piece::OutputSound => !none(usage.output_audio_tokens),
                Piece::InputImage => !none(units.input_image_tokens),
                Piece::OutputImage => !none(units.output_image_tokens),
                Piece::Search => false,
            };
            if let Some(cost) = cost.filter(|_| !again) {
                sum += cost;
                counted |= bought;
            }
        }
        (sum, counted)
    }

    fn each(&self, units: &Units) -> [(Piece, bool, Option<i128>); 8] {
        let cost =
            |count: Option<u64>, price: Option<i64>, scale: i128| Some(i128::from(count?) * i128::from(price?) * scale);
        [
            (Piece::Characters, true, cost(units.characters, self.characters, 1)),
            (Piece::OutputImage, true, cost(units.output_images, self.per_image, MILLION)),
            (Piece::InputImage, true, cost(units.input_images, self.per_input_image, MILLION)),
            (Piece::InputSound, true, cost(units.input_audio_ms, self.per_input_second, MILLION / 1000)),
            (Piece::OutputSound, true, cost(units.output_audio_ms, self.per_output_second, MILLION / 1000)),
            (Piece::Search, true, cost(units.search_units, self.per_search_unit, MILLION)),
            (Piece::Search, false, cost(units.web_searches, self.per_search, MILLION)),
            (Piece::Search, false, cost(units.web_searches.map(|all| all.min(1)), self.per_search_request, MILLION)),
        ]
    }
}

#[derive(Clone, Copy)]
enum Piece {
    Characters,
    InputSound,
    OutputSound,
    InputImage,
    OutputImage,
    Search,
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
/// A factor that changes nothing, in billionths.
const ONE: i64 = 1_000_000_000;
const BILLION: u64 = 1_000_000_000;
