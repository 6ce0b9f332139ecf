//! The shape of `[media]`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Size, Span};

/// Media that a request names by URL are fetched where the provider takes bytes only.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Media {
    /// Default: true. Otherwise such a request is refused.
    pub fetch: Option<bool>,
    /// Hosts that may be asked although they live on private addresses.
    pub allow: Option<Vec<String>>,
    /// The most bytes that one of them may have. Default: 20MiB.
    pub max_size: Option<Size>,
    /// How long fetching one may take. Default: 10s.
    pub timeout: Option<Span>,
}
