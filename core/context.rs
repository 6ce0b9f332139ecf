//! What one request carries from its first byte to its record.

mod facts;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, request::Parts};
use serde_json::{Map, Value};

pub use self::facts::{Allowance, Funds, Rank, Reserve, Seats, Share, Weighed};
pub use crate::config::Urgency as Priority;
use crate::{
    auth::Principal,
    clock,
    model::{Format, Operation},
    route::{Drawn, Passed, Target},
};

/// Facts and scratch space of one request. Owned by the gateway, lent to stages.
#[derive(Debug)]
pub struct Context {
    /// Minted here, unique for ever: `req_` and 32 hex digits, time-ordered.
    pub id: Arc<str>,
    pub operation: Operation,
    pub format: Format,
    pub principal: Arc<Principal>,
    /// Wall clock at the start: windows and scripts' `context.now`.
    pub now: SystemTime,
    /// Monotonic clock at the start: intervals.
    pub started: Instant,
    /// Ends at commit.
    pub deadline: Option<Instant>,
    /// `x-portcullis-tags`.
    pub tags: Vec<(String, String)>,
    pub priority: Priority,
    /// What `x-portcullis-priority` asks for.
    pub wished: Option<Priority>,
    /// Who asks within its key; looked for only where something goes by it.
    pub sticks: Option<Box<Sticks>>,
    /// A request of the gateway's own, beside one of a caller's.
    pub beside: bool,
    /// The part that it has in an experiment, on its way from the plan to its owner.
    pub drawn: Option<Box<Drawn>>,
    /// Request headers that stages may read: never credentials or cookies.
    pub headers: Vec<(String, String)>,
    /// `x-portcullis-explain: 1`: the caller wants the decision trace back.
    pub explain: bool,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// For `choose` and weighted targets: the same seed makes the same choice.
    pub seed: u64,
    /// What the cache had to say; boxed, because few have one in their way.
    pub cached: Option<Box<Cached>>,
    /// Shared by the stages of this request.
    pub vars: Map<String, Value>,
    pub trace: Trace,
}

/// A session and an end user, as a request names them: hashed together with their tenant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sticks {
    pub session: Option<u64>,
    pub user: Option<u64>,
}

/// What the cache did for a request.
#[derive(Debug, Clone)]
pub struct Cached {
    pub word: CacheWord,
    /// How old a kept answer is.
    pub age: Duration,
    /// `provider/model` that once gave it.
    pub target: Option<Arc<str>>,
    /// What the answer cost then, and does not cost again.
    pub saved_nano_usd: Option<i64>,
    /// Time spent waiting for others.
    pub waited: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheWord {
    /// Nothing was there: it went on.
    Miss,
    Hit,
    /// The answer of a request that flew for several.
    Shared,
}

impl Cached {
    pub fn new(word: CacheWord) -> Cached {
        Cached { word, age: Duration::ZERO, target: None, saved_nano_usd: None, waited: Duration::ZERO }
    }
}

impl CacheWord {
    /// In records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            CacheWord::Miss => "miss",
            CacheWord::Hit => "hit",
            CacheWord::Shared => "shared",
        }
    }

    /// In headers: who shares an answer got one that was there.
    pub const fn shown(self) -> &'static str {
        match self {
            CacheWord::Miss => "miss",
            CacheWord::Hit | CacheWord::Shared => "hit",
        }
    }
}

/// The decision trace: compact while the request runs, formatted only when somebody reads it.
#[derive(Debug, Default)]
pub struct Trace {
    pub steps: Vec<Step>,
    /// A stage took longer than its `slow`.
    pub slow: bool,
}

/// One decision.
#[derive(Debug, Clone)]
pub enum Step {
    /// A stage ran.
    Stage {
        stage: Arc<str>,
        phase: &'static str,
        verdict: Verdict,
        /// Of all calls that this step tells.
        took: Duration,
        operations: u64,
        /// Bytes of a plugin's instance.
        memory: u64,
        /// More than one for events that passed.
        calls: u32,
        /// Where in a script the verdict was given; 0: there is no such place.
        line: u32,
        slow: bool,
    },
    /// A stage that fails too often was left out, or stood in the way. The next try is due in so long.
    Parked { stage: Arc<str>, wait: Duration },
    /// `context.note(text)`.
    Note { stage: Arc<str>, line: u32, text: String },
    /// The strategy's order, or what follows from a stage's choice.
    Planned { targets: Vec<Arc<str>> },
    /// A target was passed over before it was tried. `code`: the reason in one word, where there is one.
    PassedOver { target: Arc<str>, code: &'static str, reason: Arc<str> },
    /// An attempt ended.
    Attempt { number: u32, target: Arc<str>, outcome: Cow<'static, str>, took: Duration },
    /// Something of the request or answer that a format could not say.
    Dropped { what: Cow<'static, str> },
    /// Explained requests: the names that a stage chose.
    Chosen { names: Vec<Arc<str>> },
    /// Explained requests: what the caller's limits leave it.
    Limits(Box<[Allowance]>),
    /// Explained requests: what the team's budget leaves it.
    Budget(Box<Funds>),
    /// Explained requests: the order of targets, and why each stands where it does.
    Ranked(Box<[Rank]>),
    /// Explained requests: a target that was considered.
    Weighed(Box<Weighed>),
    /// Explained requests: what an attempt takes from limits and budget.
    Reserve(Box<Reserve>),
}

/// What a stage decided, as the trace keeps it.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Continue,
    Respond,
    Reject(u16),
    Next(Arc<str>),
    Skip,
    Stop(Arc<str>),
    /// The stage failed; its `on_error` decided.
    Failed(Arc<str>),
}

impl Context {
    /// Opens the context of a request. `whole` is the longest that it may take up to its commit.
    pub fn open(
        operation: Operation,
        format: Format,
        parts: &Parts,
        principal: Arc<Principal>,
        whole: Duration,
    ) -> Context {
        let now = SystemTime::now();
        let started = Instant::now();
        let id = mint_id(now);
        // Few requests have any of the gateway's own headers: one look at the names instead of a search for each.
        let own = parts.headers.keys().any(|name| name.as_str().starts_with("x-portcullis-"));
        let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
        let wished = own.then(|| header("x-portcullis-priority").and_then(Priority::parse)).flatten();
        Context {
            seed: seed_of(&id),
            id,
            operation,
            format,
            principal,
            now,
            started,
            deadline: Some(started + whole),
            tags: own.then(|| header("x-portcullis-tags").map(tags)).flatten().unwrap_or_default(),
            // Whoever has no word on it may only ask for less.
            priority: wished.unwrap_or_default().min(Priority::Normal),
            wished,
            sticks: None,
            beside: false,
            drawn: None,
            headers: Vec::new(),
            explain: own && header("x-portcullis-explain") == Some("1"),
            attempt: 0,
            cached: None,
            vars: Map::new(),
            trace: Trace::default(),
        }
    }

    /// The context of a question that a stage asks within a request: the same caller, an id of its own.
    pub fn aside(
        operation: Operation,
        format: Format,
        principal: Arc<Principal>,
        tags: Vec<(String, String)>,
        until: Instant,
    ) -> Context {
        let now = clock::wall();
        Context {
            id: mint_id(now),
            operation,
            format,
            priority: principal.priority().unwrap_or_default(),
            principal,
            now,
            started: clock::now(),
            deadline: Some(until),
            tags,
            wished: None,
            sticks: None,
            beside: true,
            drawn: None,
            headers: Vec::new(),
            explain: false,
            attempt: 0,
            seed: fastrand::u64(..),
            cached: None,
            vars: Map::new(),
            trace: Trace::default(),
        }
    }

    /// Its caller's scopes say tags, which the caller cannot say otherwise, and the highest priority that it may ask for.
    pub fn held_to(&mut self, principal: &Principal) {
        if principal.terms.is_empty() {
            return;
        }
        let mut own: Vec<(String, String)> = Vec::new();
        for (name, value) in principal.tags() {
            if !own.iter().any(|(known, _)| known == name) {
                own.push((name.clone(), value.clone()));
            }
        }
        self.tags.retain(|(name, _)| !own.iter().any(|(known, _)| known == name));
        self.tags.append(&mut own);
        if let Some(most) = principal.priority() {
            self.priority = self.wished.unwrap_or(most).min(most);
        }
    }

    /// Headers for stages: credentials and cookies stay out. Called only when a stage will run.
    pub fn keep_headers(&mut self, headers: &http::HeaderMap) {
        self.headers = headers
            .iter()
            .filter(|(name, _)| !HIDDEN.contains(&name.as_str()))
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
            .collect();
    }

    /// Unix seconds at the start.
    pub fn unix(&self) -> i64 {
        self.now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
    }

    /// What is left, before the commit, of the deadline and of what a target allows a whole answer.
    pub fn left(&self, whole: Duration, now: Instant) -> Duration {
        let end = self.started + whole;
        self.deadline.map_or(end, |deadline| deadline.min(end)).saturating_duration_since(now)
    }

    /// The earlier of "so long from now" and the deadline.
    pub fn until(&self, wait: Duration) -> Instant {
        self.by(clock::now() + wait)
    }

    /// The earlier of `at` and the deadline.
    pub fn by(&self, at: Instant) -> Instant {
        self.deadline.map_or(at, |deadline| deadline.min(at))
    }
}

/// `a=b,c=d`: at most 16 pairs of at most 64 and 256 characters.
fn tags(text: &str) -> Vec<(String, String)> {
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim()))
        .filter(|(key, value)| !key.is_empty() && key.len() <= 64 && value.len() <= 256)
        .take(16)
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// What a request says of its session, in the first of `SESSION_HEADERS` that it has: one look at each of its headers instead of a
/// search for each name.
pub fn session_of(headers: &HeaderMap) -> Option<&HeaderValue> {
    let rank = |name: &HeaderName| SESSION_HEADERS.iter().position(|known| *known == name.as_str());
    let found = headers.iter().filter_map(|(name, value)| Some((rank(name)?, value)));
    // Of several values the first.
    found.reduce(|best, next| if next.0 < best.0 { next } else { best }).map(|(_, value)| value)
}

/// Headers in which agents and applications name a session.
const SESSION_HEADERS: [&str; 6] =
    ["x-portcullis-session-id", "x-session-id", "session-id", "session_id", "x-session-affinity", "conversation_id"];

/// Request headers that no stage sees.
const HIDDEN: [&str; 7] = [
    "authorization",
    "x-api-key",
    "x-goog-api-key",
    "api-key",
    "cookie",
    "proxy-authorization",
    // Browsers have no other place for a key.
    "sec-websocket-protocol",
];

impl Trace {
    pub fn push(&mut self, step: Step) {
        // A stage that notes in a loop must not eat the memory.
        if self.steps.len() < MAX_STEPS {
            self.steps.push(step);
        }
    }
}

impl Trace {
    pub fn note(&mut self, stage: &str, text: &str) {
        self.push(Step::Note { stage: stage.into(), line: 0, text: text.to_owned() });
    }

    pub fn planned(&mut self, targets: &[Arc<Target>], passed: &[Passed]) {
        for Passed { name, code, reason } in passed {
            self.push(Step::PassedOver { target: name.clone(), code, reason: reason.clone() });
        }
        self.push(Step::Planned { targets: targets.iter().map(|t| t.name.clone()).collect() });
    }

    pub fn passed_over(&mut self, target: &Target, reason: &str) {
        self.passed_for(target, "", reason);
    }

    pub fn passed_for(&mut self, target: &Target, code: &'static str, reason: &str) {
        self.push(Step::PassedOver { target: target.name.clone(), code, reason: reason.into() });
    }
}

const MAX_STEPS: usize = 256;

/// A request's seed is its id's random half: whoever has the record can draw the same lots again.
pub fn seed_of(id: &str) -> u64 {
    id.get(20..36).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

/// From now on ids say which of several gateways minted them: `mark` has twelve bits, and is not zero.
pub fn mark_ids(mark: u16) {
    MARK.store(mark & 0x0fff, Ordering::Relaxed);
}

/// The mark of an id.
pub fn mark_of(id: &str) -> Option<u16> {
    u16::from_str_radix(id.strip_prefix("req_")?.get(13..16)?, 16).ok()
}

/// Of this process; zero: none, and the digits are random.
static MARK: AtomicU16 = AtomicU16::new(0);

/// A request id: `req_` and 32 hex digits, the first 12 the time in milliseconds (UUID version 7's layout), the rest
/// random. Ids must be unique, not secret: a thread-local generator spares the system call. Of gateways that share a store
/// digits 14 to 16 say which one it was.
pub fn mint_id(now: SystemTime) -> Arc<str> {
    let millis = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let random = fastrand::u128(..);
    let mark = match MARK.load(Ordering::Relaxed) {
        0 => (random >> 64) as u64 & 0x0fff,
        mark => u64::from(mark),
    };
    let high = millis << 16 | 0x7000 | mark;
    let low = 0x8000_0000_0000_0000 | random as u64 & 0x0fff_ffff_ffff_ffff;
    let mut text = *b"req_00000000000000000000000000000000";
    for (half, mut number) in [(4..20, high), (20..36, low)] {
        for digit in text[half].iter_mut().rev() {
            *digit = b"0123456789abcdef"[(number & 15) as usize];
            number >>= 4;
        }
    }
    std::str::from_utf8(&text).unwrap_or_default().into()
}
