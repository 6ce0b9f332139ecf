//! The words of `models.<name>.strategy`.

use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// In the order written.
    First,
    /// By chance, in proportion to the weights; the others follow if it fails.
    Weighted,
    /// Two are drawn, and the one that is expected to answer sooner goes first: by its time to the first event, its tokens a
    /// second and its requests in flight.
    LeastLatency,
    /// The one with the fewest requests in flight.
    LeastBusy,
    /// The one where this request is expected to cost the least.
    LeastCost,
    /// The one whose quota would be lost soonest; what has no quota follows.
    Quota,
}
