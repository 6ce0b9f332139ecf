//! The shape of `[[pricing]]` and `[records]`: what models cost, and what is kept of each request.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::Span;
use crate::config::PRICES;

/// A shape with a key for each thing that can have a price, besides its own.
macro_rules! priced {
    ($(#[$doc:meta])* $name:ident { $($(#[$own_doc:meta])* $own:ident: $type:ty,)* }) => {
        priced! { @keys $(#[$doc])* $name { $($(#[$own_doc])* $own: $type,)* }
            /// Tokens of the request that no other key counts.
            input,
            /// Tokens of the answer that no other key counts. Without it answers cost nothing (embeddings).
            output,
            /// Input that came out of the provider's prompt cache. Default: input.
            cache_read,
            /// Input that was put into the provider's prompt cache. Default: input.
            cache_write,
            /// The same, to be kept for an hour. Default: cache_write.
            cache_write_1h,
            /// Output that was thought and not said. Default: output.
            reasoning,
            /// Sound in the request, in tokens. Default: input.
            input_audio,
            /// Sound in the answer, in tokens. Default: output.
            output_audio,
            /// Pictures in the request, in tokens. Default: input.
            input_image,
            /// Pictures in the answer, in tokens. Default: output.
            output_image,
            /// USD per million characters to be spoken.
            characters,
            /// USD for each request, beside its tokens.
            request,
            /// USD for each picture made, unless it is counted in tokens.
            per_image,
            /// USD for each picture sent, unless it is counted in tokens.
            per_input_image,
            /// USD for each second of sound sent, unless it is counted in tokens.
            per_input_second,
            /// USD for each second of sound made, unless it is counted in tokens.
            per_output_second,
            /// USD for each search of the web that the provider runs.
            per_search,
            /// USD for each search unit of a rerank.
            per_search_unit,
            /// Sound that came out of the provider's prompt cache, in tokens. Default: cache_read.
            cache_read_audio,
            /// USD once for a request in which the provider searched the web, however often.
            per_search_request,
        }
    };
    (@keys $(#[$doc:meta])* $name:ident { $($(#[$own_doc:meta])* $own:ident: $type:ty,)* }
        $($(#[$key_doc:meta])* $key:ident,)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$own_doc])* pub $own: $type,)*
            $($(#[$key_doc])* pub $key: Option<Usd>,)*
        }

        impl $name {
            /// In the order of `Prices::KEYS`, which a test compares.
            pub fn take_prices(&mut self) -> [Option<Usd>; PRICES] {
                [$(self.$key.take()),*]
            }
        }
    };
}

priced! {
    /// What a model costs, in USD per million tokens. These prices win over the catalogue's.
    Pricing {
        /// `provider/model`, or a model's name at any provider; `*` stands for anything.
        model: String,
        /// Other prices for long requests: those of the highest tier that is passed hold for the whole request.
        tiers: Option<Vec<PriceTier>>,
        /// Other prices for other services than the usual one.
        services: Option<PriceServices>,
        /// A script below scripts/ whose `fn price(usage, model, context)` makes the price; prices beside it are what stages
        /// see and what a budget reserves at least.
        script: Option<String>,
    }
}

priced! {
    /// Prices of a request with more input than `above`; what is not written here stays as without the tier.
    PriceTier {
        /// Input tokens, cached ones included.
        #[schemars(range(min = 1))]
        above: u64,
    }
}

priced! {
    /// Prices of a service; what is not written here costs what it usually does, times `factor`.
    PriceService {
        /// Times the usual prices of tokens, sound, pictures and characters (0.5 for a half).
        factor: Option<Usd>,
        /// Its own prices for long requests.
        tiers: Option<Vec<PriceTier>>,
    }
}

/// By the service that the answer names, or that the request asks for where the answer names none.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceServices {
    /// Cheaper and slower.
    pub flex: Option<PriceService>,
    /// Dearer and steadier.
    pub priority: Option<PriceService>,
    /// Dearer and faster.
    pub fast: Option<PriceService>,
    /// Answered within a day.
    pub batch: Option<PriceService>,
    /// Kept within the United States. Its factor holds for `fast` and `batch` there, too.
    pub us: Option<PriceService>,
}

/// Prices and limits from a file, where there are no own ones; it goes before the built-in ones.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// As `portcullis catalogue import` writes it, from gateway.toml's folder.
    pub file: Option<String>,
    /// What becomes of a request whose model nobody has a price for. Default: reserve.
    pub unknown_price: Option<UnknownPrice>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownPrice {
    /// A budget counts it as its `unpriced_usd`; where there is no budget its cost is unknown. The log says so once a model.
    Reserve,
    /// It is not sent: the next target is tried, or the caller hears 403.
    Refuse,
}

/// What is kept of each request.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Records {
    /// How long records are kept, in files of an hour each. Default: 30d.
    pub keep: Option<Span>,
    /// How long sums of usage are kept by all that they are by; older ones are one sum for each team, user, key, model, target
    /// and tag. At least 32d. Default: 366d.
    pub usage: Option<Span>,
    /// Prompts and answers.
    pub bodies: Option<Bodies>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bodies {
    /// They are not kept.
    Off,
    /// They are kept beside the records, compressed and sealed under the master key, for as long as those are: the request as
    /// it went upstream, up to 1 MiB, and the first 256 KiB of what the upstream answered.
    Sealed,
}

/// US dollars as written: decimal text, or a number, which is taken as the digits that stand in the file.
#[derive(Debug, Clone)]
pub struct Usd(pub String);

impl JsonSchema for Usd {
    fn schema_name() -> Cow<'static, str> {
        "Usd".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "US dollars: decimal text or a number.",
            "examples": ["0.075", 2.5, 15],
            "anyOf": [
                { "type": "string", "pattern": "^[0-9]*\\.?[0-9]+$" },
                { "type": "number", "minimum": 0 }
            ]
        })
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Usd;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("US dollars")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Usd, E> {
                Ok(Usd(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, usd: i64) -> Result<Usd, E> {
                Ok(Usd(usd.to_string()))
            }

            // The shortest digits that read back as this number are those that were written, up to fifteen of them.
            fn visit_f64<E: de::Error>(self, usd: f64) -> Result<Usd, E> {
                Ok(Usd(usd.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
