//! Short ways to say the usual verdicts.

use crate::{
    AttemptVerdict, ErrorVerdict, EventVerdict, Part, PartKind, Refusal, Reply, RequestVerdict, ResponseVerdict,
    RouteVerdict,
};

/// Refuses: the caller gets `status` (400 to 599) and the message in its own format. In every phase of a request and of
/// an answer.
pub fn reject<V: From<Refusal>>(status: u16, message: impl Into<String>) -> V {
    V::from(Refusal { status, message: message.into() })
}

/// Answers now with a text, without a model. In the phases `request` and `error`.
pub fn respond<V: From<Reply>>(text: impl Into<String>) -> V {
    V::from(Reply { model: None, parts: vec![text_part(text)], finish_reason: None, usage: None })
}

/// This answer will not do: the next target is tried.
pub fn next(reason: impl Into<String>) -> ResponseVerdict {
    ResponseVerdict::Next(reason.into())
}

/// Passes over this target.
pub fn skip() -> AttemptVerdict {
    AttemptVerdict::Skip
}

/// Ends a streamed answer cleanly.
pub fn stop(reason: impl Into<String>) -> EventVerdict {
    EventVerdict::Stop(reason.into())
}

/// A new piece of text.
pub fn text_part(text: impl Into<String>) -> Part {
    Part {
        origin: None,
        kind: PartKind::Text,
        text: Some(text.into()),
        call_id: None,
        name: None,
        arguments: None,
        mime: None,
    }
}

macro_rules! from {
    ($from:ident, $arm:ident: $($verdict:ident),+) => {
        $(impl From<$from> for $verdict {
            fn from(value: $from) -> $verdict {
                $verdict::$arm(value)
            }
        })+
    };
}

from!(Refusal, Reject: RequestVerdict, RouteVerdict, AttemptVerdict, EventVerdict, ResponseVerdict);
from!(Reply, Respond: RequestVerdict, ErrorVerdict);
