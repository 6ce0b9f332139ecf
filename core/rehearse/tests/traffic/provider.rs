//! Providers of a simulated day: each has a temper by the hour, and may grant only so much in a time. They note what they hear.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;

use crate::{
    clock,
    error::Result,
    model::Operation,
    rehearse::{
        answers::{Answer, Answers, Fault, text_part},
        upstream::Stage,
    },
    route::Target,
    transport::{Incoming, Outbound, Upstreams},
};

/// One provider, as it is scripted.
pub struct Provider {
    pub name: &'static str,
    /// From the call to the first word, and from word to word: half of the answers take longer to begin, and half have more words.
    latency: Duration,
    pace: Duration,
    words: f64,
    /// How it is at other times; of several that fit the last one.
    moods: Vec<(Range<Duration>, Mood)>,
    grants: Vec<Grant>,
    /// So many answers at a time; what is more is refused.
    places: Option<usize>,
    /// When those under way end.
    busy: Vec<Duration>,
    heard: Vec<Call>,
    lots: fastrand::Rng,
}

#[derive(Clone, Copy)]
pub enum Mood {
    /// So many times as slow.
    Slow(f64),
    Status(u16),
    /// No connection.
    Gone,
    /// Connections that never answer.
    Silent,
    /// Ill for the first part of each so long time, and then well.
    Flapping {
        every: Duration,
        ill: Duration,
    },
    /// Of so many in a thousand calls the stream dies after a few words.
    Dying(u32),
}

/// So many requests in a window that opens with the first of them.
pub struct Grant {
    requests: u64,
    per: Duration,
    opened: Option<Duration>,
    used: u64,
}

/// A call, as the provider sees it.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub at: Duration,
    pub request: u64,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    Failed,
    /// It was over what is granted, or more than it holds.
    Over,
}

impl Provider {
    pub fn new(name: &'static str, latency_ms: u64) -> Provider {
        let (latency, pace) = (Duration::from_millis(latency_ms), Duration::from_millis(50));
        let lots = fastrand::Rng::with_seed(0);
        let (moods, grants, busy, heard) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Provider { name, latency, pace, words: WORDS, moods, grants, places: None, busy, heard, lots }
    }

    pub fn writes(mut self, words: u32) -> Provider {
        self.words = f64::from(words);
        self
    }

    /// What an answer takes on the average.
    pub fn usual(&self) -> Duration {
        let mean = |spread: f64| (spread * spread / 2.0).exp();
        self.latency.mul_f64(mean(BEGINS)) + self.pace.mul_f64(self.words * mean(WRITES) + FRAMES)
    }

    pub fn holds(mut self, places: usize) -> Provider {
        self.places = Some(places);
        self
    }

    pub fn is(mut self, when: Range<Duration>, mood: Mood) -> Provider {
        self.moods.push((when, mood));
        self
    }

    pub fn grants(mut self, requests: u64, per: Duration) -> Provider {
        self.grants.push(Grant { requests, per, opened: None, used: 0 });
        self
    }

    fn hear(&mut self, at: Duration, request: u64) -> Answer {
        let (outcome, answer) = self.answer(at);
        self.heard.push(Call { at, request, outcome });
        answer
    }

    fn answer(&mut self, at: Duration) -> (Outcome, Answer) {
        self.busy.retain(|end| *end > at);
        if self.places.is_some_and(|places| self.busy.len() >= places) {
            return (Outcome::Over, refused(503, None));
        }
        if let Some(wait) = self.grants.iter_mut().filter_map(|grant| grant.over(at)).max() {
            return (Outcome::Over, refused(429, Some(wait)));
        }
        let (mut latency, mut cut) = (self.latency, None);
        let moods = self.moods.iter().filter(|(when, _)| when.contains(&at));
        for mood in moods.map(|(_, mood)| *mood) {
            let ill = match mood {
                Mood::Slow(times) => {
                    latency = self.latency.mul_f64(times);
                    None
                }
                Mood::Status(status) => Some(refused(status, None)),
                Mood::Gone => Some(Answer { fault: Some(Fault::Refused), ..Answer::default() }),
                Mood::Silent => Some(Answer { fault: Some(Fault::Silent), ..Answer::default() }),
                Mood::Flapping { every, ill } => {
                    (at.as_millis() % every.as_millis() < ill.as_millis()).then(|| refused(500, None))
                }
                Mood::Dying(of) => {
                    cut = (self.lots.u32(..1000) < of).then_some(3);
                    None
                }
            };
            if let Some(ill) = ill {
                return (Outcome::Failed, ill);
            }
        }
        self.grants.iter_mut().for_each(|grant| grant.used += 1);
        // As it is with models: most answers are like each other, and a few take many times as long.
        latency = latency.mul_f64(self.lot(BEGINS));
        let words = (self.words * self.lot(WRITES)).clamp(1.0, self.words * 30.0).round() as u32;
        // What dies has more to say.
        let words = if cut.is_some() { words.max(5) } else { words };
        if self.places.is_some() {
            self.busy.push(at + latency + self.pace * words);
        }
        let mut events = text_part(0, "");
        let end = events.pop();
        events.pop();
        events.extend((0..words).flat_map(|n| text_part(0, &format!("word {n} ")).into_iter().nth(1)));
        events.extend(end);
        let fault = cut.map(Fault::Cut);
        let outcome = if fault.is_some() { Outcome::Failed } else { Outcome::Answered };
        (outcome, Answer { latency, pace: self.pace, fault, events, ..Answer::default() })
    }
}

impl Provider {
    /// How many times as much as usual: log-normal, half of the lots below one.
    fn lot(&mut self, spread: f64) -> f64 {
        let (size, turn) = (self.lots.f64().max(1e-12), self.lots.f64());
        (spread * (-2.0 * size.ln()).sqrt() * (std::f64::consts::TAU * turn).cos()).exp()
    }
}

impl Grant {
    /// Until there is more, where nothing is left.
    fn over(&mut self, at: Duration) -> Option<Duration> {
        let opened = match self.opened.filter(|opened| at < *opened + self.per) {
            Some(opened) => opened,
            None => {
                (self.opened, self.used) = (Some(at), 0);
                at
            }
        };
        (self.used >= self.requests).then(|| opened + self.per - at)
    }
}

fn refused(status: u16, retry_after: Option<Duration>) -> Answer {
    Answer { fault: Some(Fault::Status { status, message: None, retry_after }), ..Answer::default() }
}

/// All of a day.
pub struct Providers {
    start: Instant,
    all: BTreeMap<&'static str, Mutex<Provider>>,
}

impl Providers {
    pub fn new(providers: Vec<Provider>, start: Instant, seed: u64) -> Providers {
        let seeded = |(n, mut provider): (usize, Provider)| {
            provider.lots = fastrand::Rng::with_seed(seed.wrapping_add(n as u64));
            (provider.name, Mutex::new(provider))
        };
        Providers { start, all: providers.into_iter().enumerate().map(seeded).collect() }
    }

    /// Their tables in gateway.toml.
    pub fn tables(&self) -> String {
        let table = |name| {
            format!(
                "[providers.{name}]\nbase_url = \"http://{name}.invalid/v1\"\nformat = \"openai_chat\"\nauth = \"none\"\n"
            )
        };
        self.all.keys().map(table).collect()
    }

    pub fn heard(&self) -> BTreeMap<&'static str, Vec<Call>> {
        self.all.iter().map(|(name, provider)| (*name, provider.lock().expect("a provider").heard.clone())).collect()
    }
}

impl Upstreams for Providers {
    fn answer<'a>(&'a self, target: &'a Target, call: Outbound) -> BoxFuture<'a, Result<Incoming>> {
        let text = String::from_utf8_lossy(&call.body);
        let number = text.split_once('#').map_or("", |(_, rest)| rest);
        let number = number.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
        let provider = self.all.get(&*target.provider.name).expect("a provider of the day");
        let answer = provider.lock().expect("a provider").hear(clock::since(self.start), number.expect("a number"));
        let stage = Arc::new(Stage::new(Operation::Chat, Answers { others: Some(answer), ..Answers::default() }));
        Box::pin(async move { stage.answer(target, call).await })
    }
}

const WORDS: f64 = 5.0;
/// Of a stream, beside those of words.
const FRAMES: f64 = 3.0;
/// Of a hundred answers one takes 2.3 times as long as usual to begin, and one has six times as many words.
const BEGINS: f64 = 0.35;
const WRITES: f64 = 0.8;
