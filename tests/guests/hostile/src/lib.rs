//! A guest that does what guests must not do, on demand: for tests of the host's limits. It has every phase.
//!
//! What it does is said by the last user text of a request, `hostile PHASE DEED` anywhere in it, or by the stage's config
//! (`deed = "PHASE DEED"`), which wins. `describe` does what the config's `describe` says. Other requests pass untouched.

use std::{cell::Cell, hint::black_box};

use portcullis_plugin::prelude::*;

/// One instance: counts what it has seen, to show whether it is a fresh one.
#[derive(Default)]
struct Hostile {
    deed: Option<(String, String)>,
    requests: u32,
    /// The text of the request before: no other request may ever be told it.
    kept: String,
}

plugin!(Hostile: request, route, attempt, event, response, error, log);

impl Plugin for Hostile {
    fn describe() -> Result<Description, String> {
        let description = Description::new("hostile", env!("CARGO_PKG_VERSION")).needs([Need::LastUserText]).reusable();
        let stream = match config::value("stream").as_deref() {
            Some("whole") => StreamMode::Whole,
            Some("observe") => StreamMode::Observe,
            Some("window") => StreamMode::Window,
            Some("other") => StreamMode::Other("sideways".to_owned()),
            _ => StreamMode::Event,
        };
        let description = description.stream(stream);
        match config::value("describe").as_deref() {
            None => Ok(description),
            Some("error") => Err("it does not want to".to_owned()),
            Some("no-phases") => Ok(Description { phases: vec![Phase::Other("none".to_owned())], ..description }),
            Some("no-name") => Ok(Description { name: String::new(), ..description }),
            Some("long-name") => Ok(Description { name: "x".repeat(1 << 20), ..description }),
            Some("other-need") => Ok(description.needs([Need::Other("everything".to_owned())])),
            Some("huge-window") => Ok(description.window(u32::MAX)),
            Some("garbage") => Ok(Description { name: garbage(), ..description }),
            Some(deed) => {
                commit(deed);
                Ok(description)
            }
        }
    }
}

impl Hostile {
    /// What to do in this phase.
    fn deed(&mut self, phase: &str) -> String {
        let said = config::value("deed").and_then(|deed| parse(&deed));
        match said.or_else(|| self.deed.clone()) {
            Some((when, deed)) if when == phase => {
                commit(&deed);
                deed
            }
            _ => String::new(),
        }
    }
}

/// `PHASE DEED`.
fn parse(text: &str) -> Option<(String, String)> {
    let mut words = text.split_whitespace();
    Some((words.next()?.to_owned(), words.next()?.to_owned()))
}

impl OnRequest for Hostile {
    fn on_request(&mut self, request: Request) -> RequestVerdict {
        let text = request.last_user_text;
        self.deed = text.split_once("hostile ").and_then(|(_, rest)| parse(rest));
        self.requests += 1;
        let before = std::mem::replace(&mut self.kept, text);
        match self.deed("request").as_str() {
            // Do they live on from one request to the next?
            "count" => respond(self.requests.to_string()),
            "tell" => respond(before),
            "reject" => reject(451, "not today"),
            "wrong-status" => reject(200, "fine"),
            "other" => RequestVerdict::Other("surprise".to_owned()),
            "huge" => respond("x".repeat(HUGE)),
            "garbage" => respond(garbage()),
            "wild-pointer" => respond(wild(usize::MAX & !0xff, 64)),
            "wild-length" => respond(wild(16, usize::MAX / 2)),
            "wrong-text" => RequestVerdict::Change(vec![Edit::Text((u32::MAX, "there is no such text".to_owned()))]),
            "wrong-header" => {
                RequestVerdict::Change(vec![Edit::Header(("authorization".to_owned(), Some("mine".to_owned())))])
            }
            "wrong-turns" => RequestVerdict::Change(vec![Edit::Messages(vec![Message {
                origin: Some(u32::MAX),
                role: Role::Other("oracle".to_owned()),
                name: None,
                parts: vec![Part { origin: Some(7), kind: PartKind::Other("soul".to_owned()), ..text_part("x") }],
            }])]),
            "no-model" => RequestVerdict::Change(vec![Edit::Model(String::new())]),
            "other-edit" => RequestVerdict::Change(vec![Edit::Other("rewrite".to_owned())]),
            "many-edits" => RequestVerdict::Change((0..1_000_000).map(|n| Edit::MaxTokens(Some(n))).collect()),
            "change-then-trap" => {
                self.deed = Some(("attempt".to_owned(), "trap".to_owned()));
                RequestVerdict::Change(vec![Edit::MaxTokens(Some(7))])
            }
            _ => RequestVerdict::Continue,
        }
    }
}

impl OnRoute for Hostile {
    fn on_route(&mut self, _request: Request, _targets: Vec<Target>) -> RouteVerdict {
        match self.deed("route").as_str() {
            "nobody" => RouteVerdict::Order(Vec::new()),
            "forbidden" => RouteVerdict::Order(vec!["nobody/nothing".to_owned(), "../../etc/passwd".to_owned()]),
            "huge" => RouteVerdict::Order(vec!["x".repeat(HUGE)]),
            "garbage" => RouteVerdict::Order(vec![garbage()]),
            "other" => RouteVerdict::Other("surprise".to_owned()),
            "reject" => reject(451, "not today"),
            _ => RouteVerdict::Continue,
        }
    }
}

impl OnAttempt for Hostile {
    fn on_attempt(&mut self, _target: Target, _request: Request) -> AttemptVerdict {
        let header = |name: &str, value: &str| {
            AttemptVerdict::Change(vec![Edit::Header((name.to_owned(), Some(value.to_owned())))])
        };
        match self.deed("attempt").as_str() {
            "skip" => skip(),
            "credentials" => header("authorization", "Bearer stolen"),
            "split-header" => header("x-one", "1\r\nx-two: 2"),
            "host" => header("host", "evil.example"),
            "garbage" => header("x-one", &garbage()),
            "other" => AttemptVerdict::Other("surprise".to_owned()),
            _ => AttemptVerdict::Continue,
        }
    }
}

impl OnEvent for Hostile {
    fn on_event(&mut self, event: Event) -> EventVerdict {
        // The first texts pass, so that the answer has begun.
        if event.kind != EventKind::Text {
            return EventVerdict::Continue;
        }
        match self.deed("event").as_str() {
            "huge" => EventVerdict::Text("x".repeat(HUGE)),
            "garbage" => EventVerdict::Text(garbage()),
            "many" => EventVerdict::Replace((0..1_000_000).map(|_| NewEvent::Text("x".to_owned())).collect()),
            "other" => EventVerdict::Other("surprise".to_owned()),
            "drop" => EventVerdict::Drop,
            "stop" => stop("enough"),
            "reject" => reject(451, "not today"),
            _ => EventVerdict::Continue,
        }
    }
}

impl OnResponse for Hostile {
    fn on_response(&mut self, _answer: Answer) -> ResponseVerdict {
        match self.deed("response").as_str() {
            "huge" => ResponseVerdict::Change(vec![AnswerEdit::Parts((0, vec![text_part("x".repeat(HUGE))]))]),
            "garbage" => ResponseVerdict::Change(vec![AnswerEdit::Parts((0, vec![text_part(garbage())]))]),
            "wrong-choice" => ResponseVerdict::Change(vec![AnswerEdit::Parts((u32::MAX, Vec::new()))]),
            "other" => ResponseVerdict::Other("surprise".to_owned()),
            "next" => next("another one"),
            "reject" => reject(451, "not today"),
            _ => ResponseVerdict::Continue,
        }
    }
}

impl OnError for Hostile {
    fn on_error(&mut self, _failure: Failure) -> ErrorVerdict {
        match self.deed("error").as_str() {
            "wrong-status" => ErrorVerdict::Change(FailureEdit { status: Some(200), message: None }),
            "garbage" => ErrorVerdict::Change(FailureEdit { status: None, message: Some(garbage()) }),
            "huge" => ErrorVerdict::Change(FailureEdit { status: None, message: Some("x".repeat(HUGE)) }),
            "respond" => respond("all is well"),
            _ => ErrorVerdict::Continue,
        }
    }
}

impl OnLog for Hostile {
    fn on_log(&mut self, _summary: Summary) -> Vec<(String, String)> {
        match self.deed("log").as_str() {
            "huge" => vec![("x".repeat(HUGE), String::new())],
            "many" => (0..1_000_000).map(|n| (n.to_string(), String::new())).collect(),
            "garbage" => vec![(garbage(), garbage())],
            _ => Vec::new(),
        }
    }
}

/// What can be done in any phase.
fn commit(deed: &str) {
    match deed {
        "loop" => loop {
            black_box(0);
        },
        "recurse" => drop(black_box(recurse(black_box(1)))),
        "memory" => {
            let mut held = Vec::new();
            loop {
                held.push(black_box(vec![1u8; 1 << 20]));
            }
        }
        "panic" => panic!("as told"),
        "trap" => trap(),
        // Much work for the host and little for the guest.
        "notes" => loop {
            context::note(black_box("again and again"));
        },
        "vars" => (0u64..).for_each(|n| drop(context::set_var(&n.to_string(), "\"x\""))),
        "huge-note" => context::note(&"x".repeat(HUGE)),
        "garbage-note" => context::note(&garbage()),
        "garbage-var" => drop(context::set_var("x", "{not json")),
        _ => {}
    }
}

#[inline(never)]
#[allow(unconditional_recursion, reason = "that is what it is for")]
fn recurse(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    recurse(room[7] + 1) + black_box(room)[9]
}

#[cfg(target_family = "wasm")]
fn trap() {
    core::arch::wasm32::unreachable()
}

#[cfg(not(target_family = "wasm"))]
fn trap() {}

/// Text that is no UTF-8. A fresh one each time, so that nothing is folded away while compiling.
fn garbage() -> String {
    thread_local!(static SEED: Cell<u8> = const { Cell::new(0xC0) });
    let bytes = vec![0xFF, 0xFE, SEED.get(), 0x80, 0xED, 0xA0, 0x80];
    // SAFETY: wrong on purpose. It is only handed to the host, which has to refuse it; nothing here reads it as text.
    unsafe { String::from_utf8_unchecked(bytes) }
}

/// A text that lies outside of this guest's memory.
fn wild(pointer: usize, length: usize) -> String {
    // SAFETY: wrong on purpose. It is only handed to the host, which has to refuse it; it is never read or freed here.
    unsafe { String::from_raw_parts(black_box(pointer) as *mut u8, length, length) }
}

/// More than any answer may be.
const HUGE: usize = 24 << 20;
