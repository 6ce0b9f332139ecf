//! Coding agents: the requests that `claude` and `codex` send (many tools, a long system prompt with cache markers, thinking
//! that must come back signed, calls in parallel), written by hand after theirs, on an upstream of each format. Checks that
//! nothing is lost on the way there and back. tests/clients runs the programs themselves.

mod claude;
mod codex;
mod upstream;

use crate::{
    family::{Anthropic, Family, Gemini, Openai},
    support::{Gateway, Upstream},
};

const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

fn model(family: Family) -> &'static str {
    match family {
        Openai => "gpt-5.1",
        Anthropic => "claude-sonnet-4-6",
        Gemini => "gemini-3-pro",
    }
}

/// A gateway before an upstream of this format, which says one turn with everything in it.
async fn behind(family: Family) -> (Upstream, Gateway) {
    let upstream = Upstream::saying(upstream::turn(family)).await;
    let gateway = Gateway::start(&upstream.provider("up", family.format())).await;
    (upstream, gateway)
}
