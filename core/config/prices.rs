//! What a model costs, as plain data: `[[pricing]]`, the built-in table and a catalogue file all end here. Whole numbers of
//! nano-dollars; computes nothing.

use crate::model::ServiceTier;

/// `[[pricing]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Pricing {
    /// `provider/model` or a model's name, `*` standing for anything.
    pub model: String,
    pub sheet: PriceSheet,
    /// A script below scripts/ that makes the price instead.
    pub script: Option<String>,
}

/// What becomes of a request whose model nobody has a price for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownPrice {
    /// A budget reserves its `unpriced_usd`.
    #[default]
    Reserve,
    /// It is not sent.
    Refuse,
}

/// All that is known of one model's prices.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PriceSheet {
    pub prices: Prices,
    /// In rising order.
    pub tiers: Vec<PriceTier>,
    /// Those that cost something else than the usual one.
    pub services: Vec<PriceService>,
}

/// Prices of requests with more input tokens than `above`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PriceTier {
    pub above: u64,
    pub prices: Prices,
}

/// What another service than the usual one costs.
#[derive(Debug, Clone, PartialEq)]
pub struct PriceService {
    pub service: ServiceTier,
    /// Times the usual price, in billionths: what is not priced here.
    pub factor: Option<i64>,
    pub prices: Prices,
    /// In rising order.
    pub tiers: Vec<PriceTier>,
}

macro_rules! prices {
    ($($(#[$doc:meta])* $key:ident,)*) => {
        /// Of tokens and characters in nano-dollars a million, of the rest in nano-dollars each.
        #[derive(Debug, Clone, Copy, Default, PartialEq)]
        pub struct Prices {
            $($(#[$doc])* pub $key: Option<i64>,)*
        }

        impl Prices {
            /// As files write them.
            pub const KEYS: [&'static str; PRICES] = [$(stringify!($key)),*];

            /// In the order of `KEYS`.
            pub fn figures(&self) -> [Option<i64>; PRICES] {
                [$(self.$key),*]
            }

            pub fn figures_mut(&mut self) -> [&mut Option<i64>; PRICES] {
                [$(&mut self.$key),*]
            }
        }
    };
}

prices! {
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
}

/// How many things can have a price.
pub const PRICES: usize = 20;

/// What a service's factor leaves as it is: searches are sold at one price everywhere.
const FIXED: [&str; 4] = ["request", "per_search", "per_search_unit", "per_search_request"];

impl Prices {
    /// These, and `base` where there is none.
    pub fn over(&self, base: &Prices) -> Prices {
        let mut out = *self;
        for (mine, base) in out.figures_mut().into_iter().zip(base.figures()) {
            *mine = mine.or(base);
        }
        out
    }

    /// Times `factor`, in billionths, half a nano-dollar rounded up.
    pub fn times(&self, factor: i64) -> Prices {
        let mut out = *self;
        for (key, price) in Prices::KEYS.into_iter().zip(out.figures_mut()) {
            if let Some(nano) = price.as_mut().filter(|_| !FIXED.contains(&key)) {
                let scaled = (i128::from(*nano) * i128::from(factor) + 500_000_000) / 1_000_000_000;
                *nano = i64::try_from(scaled).unwrap_or(i64::MAX);
            }
        }
        out
    }

    pub fn is_empty(&self) -> bool {
        self.figures().iter().all(Option::is_none)
    }
}

impl PriceSheet {
    /// Says something about what a request costs, not only about parts of it.
    pub fn has_price(&self) -> bool {
        Prices::KEYS.iter().zip(self.prices.figures()).any(|(key, price)| price.is_some() && ENOUGH.contains(key))
    }
}

/// A model is priced when one of these is: the rest are parts of them.
pub const ENOUGH: [&str; 8] = [
    "input",
    "request",
    "characters",
    "per_image",
    "per_input_image",
    "per_input_second",
    "per_output_second",
    "per_search_unit",
];
