//! What one request brings to the choice among targets: how long it is, what it wants, what ties it to others. Reads as much
//! of it as the plan's strategies ask for, and nothing where there is nothing to choose.

use http::HeaderMap;

use super::{Plan, sticky};
use crate::{
    account::estimate::Size,
    codec::document::Document,
    config::{Sticky, Strategy},
    context::Context,
    model::Operation,
};

#[derive(Debug, Clone, Default)]
pub struct Profile {
    /// Of draws: the same seed makes the same choice.
    pub seed: u64,
    /// Hashes of its session and of its caller's key.
    pub session: Option<u64>,
    pub key: Option<u64>,
    pub size: Size,
    /// The most tokens that its answer may have, all choices together.
    pub output: Option<u64>,
    pub stream: bool,
    pub tools: bool,
    /// There may be pictures, sound or documents in it.
    pub media: bool,
}

impl Profile {
    pub fn of(plan: &Plan, cx: &Context, document: &Document, client: &HeaderMap) -> Profile {
        let sticks = |to: Sticky| plan.groups.iter().any(|group| group.sticky == Some(to));
        let asks = |of: Strategy| plan.groups.iter().any(|group| group.strategy == of);
        let chat = cx.operation == Operation::Chat;
        let output = match chat {
            true if asks(Strategy::LeastCost) || asks(Strategy::LeastLatency) => {
                let bound = document.output_bound();
                bound.tokens.map(|tokens| tokens.saturating_mul(bound.choices.max(1)))
            }
            true => None,
            false => Some(0),
        };
        Profile {
            seed: cx.seed,
            session: sticks(Sticky::Session).then(|| sticky::session(cx, document, client)).flatten(),
            key: sticks(Sticky::Key).then(|| sticky::key(cx)).flatten(),
            size: Size::of(document),
            output,
            stream: document.stream(),
            tools: chat && document.has_tools(),
            media: chat && document.has_media(),
        }
    }

    /// By what it keeps to its target; `None`: by nothing.
    pub fn stick(&self, to: Option<Sticky>) -> Option<u64> {
        match to? {
            Sticky::Session => self.session,
            Sticky::Key => self.key,
        }
    }

    /// Tokens that the answer is expected to have, of a target whose answers have so many on the average.
    pub fn expected_output(&self, usual: Option<f32>) -> f32 {
        let most = self.output.map_or(f32::INFINITY, |most| most as f32);
        usual.unwrap_or(USUAL_OUTPUT).min(most)
    }
}

/// Of an answer about which nothing is known.
const USUAL_OUTPUT: f32 = 512.0;
