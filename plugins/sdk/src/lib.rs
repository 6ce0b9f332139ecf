//! Write plugins for Portcullis in Rust. A plugin is a type, one trait a phase, and one line that exports them:
//!
//! ```ignore
//! use portcullis_plugin::prelude::*;
//!
//! #[derive(Default)]
//! struct Polite;
//!
//! plugin!(Polite: request);
//!
//! impl Plugin for Polite {
//!     fn describe() -> Result<Description, String> {
//!         Ok(Description::new("polite", "1.0.0").needs([Need::LastUserText]))
//!     }
//! }
//!
//! impl OnRequest for Polite {
//!     fn on_request(&mut self, request: Request) -> RequestVerdict {
//!         if request.last_user_text.contains("please") {
//!             return RequestVerdict::Continue;
//!         }
//!         reject(400, "say please")
//!     }
//! }
//! ```
//!
//! The value of the type is made (`Default`) at the first phase that a request meets, and is gone after its last one:
//! its fields are the request's memory. What each record, verdict and import means stands in `plugins/wit/portcullis.wit`;
//! the names here are the same, in Rust's writing. Nothing in here is unsafe but the heap, and nothing needs `std` features that a
//! sandbox lacks: files, sockets, threads and clocks are not there. The imports are [`config`], [`context`], [`facts`],
//! and, when granted, [`logging`], [`kv`], [`metrics`], [`clock`] and [`http`].

mod export;
#[cfg(target_family = "wasm")]
mod heap;
mod phase;
mod verdict;
#[doc(hidden)]
pub mod wit;

pub use phase::{OnAttempt, OnError, OnEvent, OnLog, OnRequest, OnResponse, OnRoute, Plugin};
pub use verdict::{next, reject, respond, skip, stop, text_part};
pub use wit::base::portcullis::plugin::{
    clock, config, context, facts, http, kv, logging, metrics,
    types::{
        Answer, AnswerEdit, Choice, Description, Edit, Event, EventKind, Failure, FailureEdit, FinishReason, Message,
        Need, NewCall, NewEvent, Part, PartKind, Phase, Refusal, Reply, Request, Role, StreamMode, Summary, Target,
        Text, TextKind, Tool, Unread, Usage,
    },
};
/// The verdicts of each phase.
pub use wit::{
    attempt::exports::portcullis::plugin::attempt::Verdict as AttemptVerdict,
    error::exports::portcullis::plugin::error::Verdict as ErrorVerdict,
    event::exports::portcullis::plugin::event::Verdict as EventVerdict,
    request::exports::portcullis::plugin::request::Verdict as RequestVerdict,
    response::exports::portcullis::plugin::response::Verdict as ResponseVerdict,
    route::exports::portcullis::plugin::route::Verdict as RouteVerdict,
};

/// All that a plugin usually needs.
pub mod prelude {
    pub use crate::{
        Answer, AnswerEdit, AttemptVerdict, Description, Edit, ErrorVerdict, Event, EventKind, EventVerdict, Failure,
        FailureEdit, FinishReason, Message, Need, NewCall, NewEvent, OnAttempt, OnError, OnEvent, OnLog, OnRequest,
        OnResponse, OnRoute, Part, PartKind, Phase, Plugin, Reply, Request, RequestVerdict, ResponseVerdict, Role,
        RouteVerdict, StreamMode, Summary, Target, TextKind, Usage, clock, config, context, facts, http, kv, logging,
        metrics, next, plugin, reject, respond, skip, stop, text_part,
    };
}
