//! One trait a phase. A plugin implements those that it names in `plugin!`.

use crate::{
    Answer, AttemptVerdict, Description, ErrorVerdict, Event, EventVerdict, Failure, Need, Request, RequestVerdict,
    ResponseVerdict, RouteVerdict, StreamMode, Summary, Target,
};

/// Every plugin: what it is and what it needs.
pub trait Plugin: Default + 'static {
    /// Called once when the file is loaded, with the stage's `config`. An error refuses the file with its sentence.
    /// `phases` may stay empty: then they are those that `plugin!` lists.
    fn describe() -> Result<Description, String>;
}

/// Once, before routing.
pub trait OnRequest: Plugin {
    fn on_request(&mut self, request: Request) -> RequestVerdict;
}

/// Once, with the targets in the strategy's order.
pub trait OnRoute: Plugin {
    fn on_route(&mut self, request: Request, targets: Vec<Target>) -> RouteVerdict;
}

/// Before each attempt. Edits are for this target only.
pub trait OnAttempt: Plugin {
    fn on_attempt(&mut self, target: Target, request: Request) -> AttemptVerdict;
}

/// Each step of an answer.
pub trait OnEvent: Plugin {
    fn on_event(&mut self, event: Event) -> EventVerdict;
}

/// Once, with the whole answer. Say in `describe` how streamed answers are to come: `.stream(StreamMode::Whole)`.
pub trait OnResponse: Plugin {
    fn on_response(&mut self, answer: Answer) -> ResponseVerdict;
}

/// Once, when the request failed.
pub trait OnError: Plugin {
    fn on_error(&mut self, failure: Failure) -> ErrorVerdict;
}

/// Once, after the end; gives back tags for the record.
pub trait OnLog: Plugin {
    fn on_log(&mut self, summary: Summary) -> Vec<(String, String)>;
}

impl Description {
    pub fn new(name: &str, version: &str) -> Description {
        Description {
            name: name.to_owned(),
            version: version.to_owned(),
            phases: Vec::new(),
            needs: Vec::new(),
            stream_mode: None,
            window: None,
            reusable: false,
        }
    }

    /// What is to be copied into the plugin: nothing that is not listed here.
    pub fn needs(mut self, needs: impl IntoIterator<Item = Need>) -> Description {
        self.needs.extend(needs);
        self
    }

    /// How streamed answers come.
    pub fn stream(mut self, mode: StreamMode) -> Description {
        self.stream_mode = Some(mode);
        self
    }

    /// Streamed answers come with so many characters held back.
    pub fn window(self, characters: u32) -> Description {
        Description { window: Some(characters), ..self.stream(StreamMode::Window) }
    }

    /// An instance may serve several requests, where the operator says so: it keeps nothing of one that another must
    /// not see.
    pub fn reusable(self) -> Description {
        Description { reusable: true, ..self }
    }
}
