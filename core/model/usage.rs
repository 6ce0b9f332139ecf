//! What an answer cost in tokens. Unknown is `None`, never zero.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::Format;

/// `input_tokens` includes cached ones and `output_tokens` includes reasoning, as OpenTelemetry counts them: codecs add
/// or subtract at their border.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    pub cache_read_tokens: Option<u64>,
    /// All cache writes; the 1 h share of it stands in `cache_write_1h_tokens`.
    pub cache_write_tokens: Option<u64>,
    pub cache_write_1h_tokens: Option<u64>,
    pub reasoning_tokens: Option<u64>,
    pub input_audio_tokens: Option<u64>,
    pub output_audio_tokens: Option<u64>,
    /// What is paid for, where a vendor bills other counts than were read and written.
    pub billed: Option<Billed>,
    /// The service that the answer says it had, where prices differ by it.
    pub service_tier: Option<ServiceTier>,
    /// What is counted besides; boxed, as most answers have none of it.
    pub units: Option<Box<Units>>,
    /// The usage object as its own format wrote it: given back to that format as it was.
    pub native: Option<Native>,
}

/// A usage object in its format's own JSON. Only that format looks into it, and only to give it back: so it is kept as it is written.
#[derive(Debug, Clone)]
pub struct Native {
    pub format: Format,
    text: Box<str>,
}

impl Native {
    /// `object`: a JSON object.
    pub fn new(format: Format, object: impl Into<Box<str>>) -> Self {
        Native { format, text: object.into() }
    }

    pub fn of(format: Format, object: &Map<String, Value>) -> Self {
        Native::new(format, serde_json::to_string(object).unwrap_or_default())
    }

    /// What it says; nothing, if that is no object.
    pub fn object(&self) -> Map<String, Value> {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// Takes over every field that `later` says something of, if it is of the same format; else it is that one.
    fn merge(&mut self, later: &Native) {
        if self.format != later.format {
            *self = later.clone();
        } else if self.text != later.text {
            let mut all = self.object();
            all.extend(later.object().into_iter().filter(|(_, value)| !value.is_null()));
            *self = Native::of(self.format, &all);
        }
    }
}

/// White space and the order of fields say nothing.
impl PartialEq for Native {
    fn eq(&self, other: &Native) -> bool {
        self.format == other.format && (self.text == other.text || self.object() == other.object())
    }
}

impl Serialize for Native {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.format, self.object()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Native {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Native, D::Error> {
        let (format, object) = <(Format, Map<String, Value>)>::deserialize(deserializer)?;
        Ok(Native::of(format, &object))
    }
}

/// Tokens that a vendor charges: its own prompt around the caller's is not among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Billed {
    pub input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
}

/// What a vendor counts besides text and sound, or in other units than tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Units {
    /// Part of `input_tokens`.
    pub input_image_tokens: Option<u64>,
    /// Part of `output_tokens`.
    pub output_image_tokens: Option<u64>,
    /// Pictures sent, where they are billed by the piece.
    pub input_images: Option<u64>,
    /// Pictures made.
    pub output_images: Option<u64>,
    /// Sound sent, in milliseconds.
    pub input_audio_ms: Option<u64>,
    /// Sound made, in milliseconds.
    pub output_audio_ms: Option<u64>,
    /// Characters of text to be spoken.
    pub characters: Option<u64>,
    /// Of a rerank, as its vendor bills it.
    pub search_units: Option<u64>,
    /// Searches of the web that the provider itself ran.
    pub web_searches: Option<u64>,
    /// Part of `cache_read_tokens` and of `input_audio_tokens`.
    pub cache_read_audio_tokens: Option<u64>,
}

impl Units {
    /// Under the names that rows, views and prices use.
    pub fn named(&self) -> [(&'static str, Option<u64>); UNITS] {
        let Units {
            input_image_tokens,
            output_image_tokens,
            input_images,
            output_images,
            input_audio_ms,
            output_audio_ms,
            characters,
            search_units,
            web_searches,
            cache_read_audio_tokens,
        } = *self;
        [
            ("input_image_tokens", input_image_tokens),
            ("output_image_tokens", output_image_tokens),
            ("input_images", input_images),
            ("output_images", output_images),
            ("input_audio_ms", input_audio_ms),
            ("output_audio_ms", output_audio_ms),
            ("characters", characters),
            ("search_units", search_units),
            ("web_searches", web_searches),
            ("cache_read_audio_tokens", cache_read_audio_tokens),
        ]
    }

    /// In the order of `named`.
    pub fn figures_mut(&mut self) -> [&mut Option<u64>; UNITS] {
        let Units {
            input_image_tokens,
            output_image_tokens,
            input_images,
            output_images,
            input_audio_ms,
            output_audio_ms,
            characters,
            search_units,
            web_searches,
            cache_read_audio_tokens,
        } = self;
        [
            input_image_tokens,
            output_image_tokens,
            input_images,
            output_images,
            input_audio_ms,
            output_audio_ms,
            characters,
            search_units,
            web_searches,
            cache_read_audio_tokens,
        ]
    }

    pub fn boxed(self) -> Option<Box<Units>> {
        (self != Units::default()).then(|| Box::new(self))
    }
}

/// How many kinds of units there are.
pub const UNITS: usize = 10;

/// Which service answered: the same tokens cost more or less by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ServiceTier {
    Standard,
    Flex,
    Priority,
    Fast,
    Batch,
    /// The usual one, a fast one and a batch, kept within the United States.
    Us,
    UsFast,
    UsBatch,
    /// One that has no prices of its own here.
    Other,
}

impl ServiceTier {
    /// From the words of any wire, in a request or an answer.
    pub fn named(word: &str) -> ServiceTier {
        match word.to_ascii_lowercase().as_str() {
            "" | "standard" | "default" | "auto" | "standard_only" | "on_demand" => ServiceTier::Standard,
            "flex" | "on_demand_flex" => ServiceTier::Flex,
            "priority" | "performance" | "on_demand_priority" => ServiceTier::Priority,
            "fast" => ServiceTier::Fast,
            "batch" => ServiceTier::Batch,
            "us" => ServiceTier::Us,
            "us_fast" => ServiceTier::UsFast,
            "us_batch" => ServiceTier::UsBatch,
            _ => ServiceTier::Other,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            ServiceTier::Standard => "standard",
            ServiceTier::Flex => "flex",
            ServiceTier::Priority => "priority",
            ServiceTier::Fast => "fast",
            ServiceTier::Batch => "batch",
            ServiceTier::Us => "us",
            ServiceTier::UsFast => "us_fast",
            ServiceTier::UsBatch => "us_batch",
            ServiceTier::Other => "other",
        }
    }

    /// The same, kept within the United States.
    pub fn within_us(self) -> ServiceTier {
        match self {
            ServiceTier::Fast | ServiceTier::UsFast => ServiceTier::UsFast,
            ServiceTier::Batch | ServiceTier::UsBatch => ServiceTier::UsBatch,
            _ => ServiceTier::Us,
        }
    }

    /// The same, wherever it is.
    pub fn anywhere(self) -> ServiceTier {
        match self {
            ServiceTier::Us => ServiceTier::Standard,
            ServiceTier::UsFast => ServiceTier::Fast,
            ServiceTier::UsBatch => ServiceTier::Batch,
            other => other,
        }
    }
}

impl Usage {
    /// What is counted besides; nothing is known of it where there is none.
    pub fn units(&self) -> Units {
        self.units.as_deref().copied().unwrap_or_default()
    }

    /// For writing to.
    pub fn units_mut(&mut self) -> &mut Units {
        self.units.get_or_insert_default()
    }

    /// The usage object as `format` itself wrote it.
    pub fn native_of(&self, format: Format) -> Option<Map<String, Value>> {
        self.native.as_ref().filter(|native| native.format == format).map(Native::object)
    }

    /// Without the wire's own object, which is as large as the wire likes.
    pub fn figures(&self) -> Usage {
        Usage { native: None, units: self.units.clone(), ..*self }
    }

    /// Adds to what a writer of `format` was told: another format's own object says nothing to it.
    pub fn hear(told: &mut Option<Usage>, later: &Usage, format: Format) {
        let native = later.native.as_ref().filter(|native| native.format == format);
        let told = told.get_or_insert_default();
        told.merge_figures(later);
        told.merge_native(native);
    }

    /// Takes over every figure that `later` knows: streams report cumulatively and in pieces.
    pub fn merge(&mut self, later: &Usage) {
        self.merge_figures(later);
        self.merge_native(later.native.as_ref());
    }

    fn merge_figures(&mut self, later: &Usage) {
        let Usage {
            input_tokens,
            output_tokens,
            cache_read_tokens,
            cache_write_tokens,
            cache_write_1h_tokens,
            reasoning_tokens,
            input_audio_tokens,
            output_audio_tokens,
            billed,
            service_tier,
            units,
            native: _,
        } = later;
        let take = |mine: &mut Option<u64>, theirs: &Option<u64>| {
            if theirs.is_some() {
                *mine = *theirs;
            }
        };
        take(&mut self.input_tokens, input_tokens);
        take(&mut self.output_tokens, output_tokens);
        take(&mut self.cache_read_tokens, cache_read_tokens);
        take(&mut self.cache_write_tokens, cache_write_tokens);
        take(&mut self.cache_write_1h_tokens, cache_write_1h_tokens);
        take(&mut self.reasoning_tokens, reasoning_tokens);
        take(&mut self.input_audio_tokens, input_audio_tokens);
        take(&mut self.output_audio_tokens, output_audio_tokens);
        self.billed = billed.or(self.billed);
        self.service_tier = service_tier.or(self.service_tier);
        if let Some(theirs) = units {
            for (mine, (_, theirs)) in self.units_mut().figures_mut().into_iter().zip(theirs.named()) {
                take(mine, &theirs);
            }
        }
    }

    fn merge_native(&mut self, later: Option<&Native>) {
        match (&mut self.native, later) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (none @ None, Some(theirs)) => *none = Some(theirs.clone()),
            (_, None) => {}
        }
    }

    /// Adds what another call used. The sum has no wire form of its own.
    pub fn add(&mut self, other: &Usage) {
        let sum = |mine: &mut Option<u64>, theirs: Option<u64>| {
            if let Some(n) = theirs {
                *mine = Some(mine.unwrap_or(0).saturating_add(n));
            }
        };
        sum(&mut self.input_tokens, other.input_tokens);
        sum(&mut self.output_tokens, other.output_tokens);
        sum(&mut self.cache_read_tokens, other.cache_read_tokens);
        sum(&mut self.cache_write_tokens, other.cache_write_tokens);
        sum(&mut self.cache_write_1h_tokens, other.cache_write_1h_tokens);
        sum(&mut self.reasoning_tokens, other.reasoning_tokens);
        sum(&mut self.input_audio_tokens, other.input_audio_tokens);
        sum(&mut self.output_audio_tokens, other.output_audio_tokens);
        if let Some(theirs) = other.billed {
            let mine = self.billed.get_or_insert_default();
            sum(&mut mine.input_tokens, theirs.input_tokens);
            sum(&mut mine.output_tokens, theirs.output_tokens);
        }
        if let Some(theirs) = other.units.as_deref() {
            for (mine, (_, theirs)) in self.units_mut().figures_mut().into_iter().zip(theirs.named()) {
                sum(mine, theirs);
            }
        }
        // Calls of two services have none together.
        let alone = self.service_tier.is_none() || self.service_tier == other.service_tier;
        self.service_tier = other.service_tier.filter(|_| alone);
        self.native = None;
    }

    pub fn total_tokens(&self) -> Option<u64> {
        Some(self.input_tokens?.saturating_add(self.output_tokens?))
    }
}
