//! The shadow: both versions decide about copies of requests, side by side, on a thread of their own and within a fifth of a
//! processor. Nothing is sent, counted or kept, and no request waits: what finds no room is left out. What differs is counted
//! by kind, with a few requests' ids as examples; no text of a request is ever kept.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use http::HeaderMap;
use serde_json::{Value, json};

use super::judge::{Counts, Tally};
use crate::{
    auth::Principal,
    codec::document::Document,
    context::Context,
    error::Result,
    gateway::{self, Gateway},
    model::{Format, Operation},
    pipeline::{Flow, drive},
    route::{Live, Order},
    runtime::{Runtime, parameters},
    telemetry::names,
};

/// The requests' end of it.
pub struct Shadow {
    /// `None`: there is no shadow.
    out: Option<Sender<Sample>>,
    figures: Arc<Figures>,
}

#[derive(Default)]
struct Figures {
    waiting: AtomicUsize,
    skipped: AtomicU64,
    same: AtomicU64,
    /// In the order of `KINDS`.
    different: [AtomicU64; KINDS.len()],
    old: Tally,
    new: Tally,
    examples: Mutex<VecDeque<Value>>,
}

/// What both versions decide about.
struct Sample {
    document: Document,
    headers: HeaderMap,
    operation: Operation,
    format: Format,
    principal: Arc<Principal>,
    id: Arc<str>,
    now: SystemTime,
    seed: u64,
}

/// A decision.
struct Seen {
    /// Of an answer made without a target: 200, or an error's.
    status: Option<u16>,
    targets: Vec<Arc<str>>,
    document: Document,
    took: Duration,
}

impl Shadow {
    /// Without one.
    pub fn none() -> Shadow {
        Shadow { out: None, figures: Arc::default() }
    }

    /// `health` is read where the gateway still is.
    pub fn start(
        old: Arc<Runtime>,
        new: Arc<Runtime>,
        gateway: Weak<Gateway>,
        slow: Option<Duration>,
    ) -> std::io::Result<Shadow> {
        let (out, hear) = channel();
        let figures: Arc<Figures> = Arc::default();
        let counted = figures.clone();
        let pair = Pair { old, new, figures: counted, slow };
        thread::Builder::new().name("shadow".to_owned()).stack_size(STACK).spawn(move || pair.run(&hear, &gateway))?;
        Ok(Shadow { out: Some(out), figures })
    }

    /// A copy of a request, if there is room for one. Never waits.
    pub fn offer(&self, cx: &Context, document: &Document, headers: &HeaderMap) {
        let Some(out) = self.out.as_ref().filter(|_| matches!(cx.operation, Operation::Chat | Operation::Embeddings))
        else {
            return;
        };
        let figures = &self.figures;
        let room = document.bytes().len() <= MOST_BYTES && figures.waiting.load(Ordering::Relaxed) < MOST_WAITING;
        if !room {
            figures.skipped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        figures.waiting.fetch_add(1, Ordering::Relaxed);
        let _ = out.send(Sample {
            document: document.clone(),
            headers: headers.clone(),
            operation: cx.operation,
            format: cx.format,
            principal: cx.principal.clone(),
            id: cx.id.clone(),
            now: cx.now,
            seed: cx.seed,
        });
    }

    /// Of the old version's decisions and of the new one's.
    pub fn counts(&self) -> (Counts, Counts) {
        (self.figures.old.counts(), self.figures.new.counts())
    }

    pub fn json(&self) -> Value {
        let figures = &self.figures;
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let kinds: serde_json::Map<String, Value> =
            KINDS.iter().zip(&figures.different).map(|(kind, n)| ((*kind).to_owned(), count(n).into())).collect();
        let different: u64 = figures.different.iter().map(count).sum();
        json!({
            "compared": count(&figures.same) + different,
            "different": different,
            "kinds": kinds,
            "left_out": count(&figures.skipped),
            "old": figures.old.json(),
            "new": figures.new.json(),
            "examples": *figures.examples.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }
}

/// What the gateway would do with the request on this version, up to its first attempt. Nothing of it lasts.
fn decide(version: &Runtime, live: &Live<'_>, sample: &Sample) -> Seen {
    let began = Instant::now();
    let mut document = sample.document.clone();
    let mut cx = sample.context(version.whole);
    let outcome = drive(steps(version, live, &sample.headers, &mut cx, &mut document));
    let (status, targets) = match outcome {
        Ok(Some(targets)) => (None, targets.iter().map(|target| target.name.clone()).collect()),
        Ok(None) => (Some(200), Vec::new()),
        Err(error) => (Some(error.status()), Vec::new()),
    };
    Seen { status, targets, document, took: began.elapsed() }
}

/// Steps 5 to 7 of `gateway.rs`. `None`: a stage answered.
async fn steps(
    version: &Runtime,
    live: &Live<'_>,
    headers: &HeaderMap,
    cx: &mut Context,
    document: &mut Document,
) -> Result<Option<Order>> {
    if cx.operation == Operation::Chat {
        parameters(&cx.principal, document)?;
    }
    let mut chain = version.pipeline.rehearse(&cx.principal, document.model());
    if chain.reads_headers() {
        cx.keep_headers(headers);
    }
    let outcome = match chain.request(cx, document).await {
        Ok(Flow::Continue) => gateway::plan(&version.routes, live, &mut chain, cx, document, headers).await.map(Some),
        Ok(Flow::Respond(_) | Flow::Repeat(_) | Flow::Follow(_)) => Ok(None),
        Err(error) => Err(error),
    };
    chain.close(cx);
    outcome
}

/// The thread's end of it.
struct Pair {
    old: Arc<Runtime>,
    new: Arc<Runtime>,
    figures: Arc<Figures>,
    slow: Option<Duration>,
}

impl Pair {
    fn run(&self, hear: &Receiver<Sample>, gateway: &Weak<Gateway>) {
        while let Ok(sample) = hear.recv() {
            self.figures.waiting.fetch_sub(1, Ordering::Relaxed);
            let Some(gateway) = gateway.upgrade() else { return };
            let began = Instant::now();
            let live = gateway.state.live();
            if catch_unwind(AssertUnwindSafe(|| self.compare(&live, &sample))).is_err() {
                tracing::error!(request = %sample.id, "a decision in the shadow broke off");
            }
            drop(gateway);
            thread::park_timeout((began.elapsed() * REST).min(LONGEST_REST));
        }
    }

    fn compare(&self, live: &Live<'_>, sample: &Sample) {
        let (old, new) = (decide(&self.old, live, sample), decide(&self.new, live, sample));
        let failed = |seen: &Seen| seen.status.is_some_and(|status| status >= 500);
        self.figures.old.add(old.took, failed(&old), self.slow);
        self.figures.new.add(new.took, failed(&new), self.slow);
        let (was, now) = (told(&old), told(&new));
        let Some(kind) = kind(old, new) else {
            self.figures.same.fetch_add(1, Ordering::Relaxed);
            metrics::counter!(names::SHADOW_DECISIONS, "outcome" => "same").increment(1);
            return;
        };
        metrics::counter!(names::SHADOW_DECISIONS, "outcome" => KINDS[kind]).increment(1);
        self.figures.different[kind].fetch_add(1, Ordering::Relaxed);
        let mut examples = self.figures.examples.lock().unwrap_or_else(PoisonError::into_inner);
        if examples.len() >= EXAMPLES {
            examples.pop_front();
        }
        examples.push_back(json!({ "request": &*sample.id, "kind": KINDS[kind], "was": was, "now": now }));
    }
}

impl Sample {
    fn context(&self, whole: Duration) -> Context {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.headers = self.headers.clone();
        let mut cx = Context::open(self.operation, self.format, &parts, self.principal.clone(), whole);
        (cx.id, cx.now, cx.seed) = (self.id.clone(), self.now, self.seed);
        cx
    }
}

/// How two decisions differ, as an index of `KINDS`.
fn kind(mut old: Seen, mut new: Seen) -> Option<usize> {
    let failed = |seen: &Seen| seen.status.is_some_and(|status| status >= 500);
    if failed(&new) && !failed(&old) {
        return Some(FAILED);
    }
    if old.status != new.status {
        return Some(VERDICT);
    }
    if old.targets != new.targets {
        return Some(if old.targets.first() == new.targets.first() { ORDER } else { TARGET });
    }
    let untouched = old.document.dirty().is_empty() && new.document.dirty().is_empty();
    if old.document.model() != new.document.model() {
        return Some(REWRITE);
    }
    if untouched || old.status.is_some() {
        return None;
    }
    let same = match (old.document.request(), new.document.request()) {
        (Ok(old), Ok(new)) => old == new,
        (old, new) => old.is_err() == new.is_err(),
    };
    (!same).then_some(REWRITE)
}

fn told(seen: &Seen) -> Value {
    let targets: Vec<&str> = seen.targets.iter().take(SHOWN).map(|name| &**name).collect();
    json!({ "status": seen.status, "targets": targets, "model": seen.document.model() })
}

/// The new version fails where the old one does not; another answer or refusal; another first target; another order behind
/// it; another request.
const KINDS: [&str; 5] = ["failed", "verdict", "target", "order", "rewrite"];
const FAILED: usize = 0;
const VERDICT: usize = 1;
const TARGET: usize = 2;
const ORDER: usize = 3;
const REWRITE: usize = 4;

/// As a serving thread's: scripts may nest deep.
const STACK: usize = 16 << 20;
/// Copies at a time, and bytes of one.
const MOST_WAITING: usize = 16;
const MOST_BYTES: usize = 1 << 20;
/// So many times as long as a pair of decisions took, the thread rests.
const REST: u32 = 4;
const LONGEST_REST: Duration = Duration::from_secs(1);
const EXAMPLES: usize = 20;
/// Targets of an example.
const SHOWN: usize = 4;
