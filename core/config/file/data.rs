//! The shape of `data`: where data may be and what may become of it, as a word or a table.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::{OneOrMany, Span};

/// What becomes of data: of a provider what it promises, of a team what its targets must promise.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataTerms {
    /// Where it is: a word of yours (`eu`) or a cloud's (`eu-central-1`), compared as a whole. Of several one must be met.
    pub region: Option<OneOrMany>,
    /// How long prompts and answers are kept there, at most; `0s`: not at all.
    pub retention: Option<Span>,
    /// `false`: no model is trained with it.
    pub train: Option<bool>,
}

/// A region, or a table.
#[derive(Debug, Clone)]
pub enum Data {
    Region(String),
    Terms(DataTerms),
}

impl JsonSchema for Data {
    fn schema_name() -> Cow<'static, str> {
        "Data".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let terms = generator.subschema_for::<DataTerms>();
        json_schema!({ "anyOf": [{ "type": "string" }, terms] })
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Data;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a region, or a table of region, retention and train")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Data, E> {
                Ok(Data::Region(text.to_owned()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Data, A::Error> {
                DataTerms::deserialize(de::value::MapAccessDeserializer::new(map)).map(Data::Terms)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
