//! `builtin/cache` at its place in the pipeline: what a request asks there is its key, and what an answer says there is kept. So
//! the stages before it see every answer, kept or new, and those behind it only new ones. Holds no answer itself.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;

use super::{Boarding, Cache, Flight, Follower, Given, Kept, Key, Leading};
use crate::{
    clock,
    codec::document::Document,
    config::{self, StreamMode},
    context::{CacheWord, Cached, Context},
    error::{Error, Kind},
    model::{Event, Operation, Response, Start},
    pipeline::{
        Candidate, Phase, Reads, Stage, Visit,
        builtin::Making,
        phase::Phases,
        stage::{EventVerdict, Outcome, RequestVerdict, ResponseVerdict},
    },
    provider,
    telemetry::metrics,
};

pub struct CacheStage(Arc<Shared>);

struct Shared {
    name: Arc<str>,
    cache: Arc<Cache>,
    config: config::Cache,
    /// The version of what decides over answers.
    policy: String,
    /// Names of the caller's headers that travel upstream.
    headers: Vec<&'static str>,
}

impl CacheStage {
    pub fn make(making: &Making<'_>) -> Result<Arc<dyn Stage>, String> {
        if !making.listed.config.is_empty() {
            return Err("the cache is configured in the table [cache], not by its entry in [[stages]]".into());
        }
        Ok(Arc::new(CacheStage(Arc::new(Shared {
            name: making.listed.uses.as_str().into(),
            cache: making.kept.cache.clone(),
            config: making.config.cache.clone(),
            policy: making.config.policy.clone(),
            headers: provider::travelling(),
        }))))
    }
}

impl Stage for CacheStage {
    fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    fn phases(&self) -> Phases {
        Phases::default().with(Phase::Request).with(Phase::Event).with(Phase::Response)
    }

    fn stream(&self) -> Option<StreamMode> {
        Some(StreamMode::Event)
    }

    fn reads(&self) -> Reads {
        Reads { headers: true, targets: false }
    }

    fn open(&self) -> Box<dyn Visit> {
        Box::new(CacheVisit { shared: self.0.clone(), state: State::Fresh, dry: false })
    }

    fn rehearse(&self) -> Box<dyn Visit> {
        Box::new(CacheVisit { shared: self.0.clone(), state: State::Fresh, dry: true })
    }
}

struct CacheVisit {
    shared: Arc<Shared>,
    state: State,
    dry: bool,
}

enum State {
    Fresh,
    /// It has no more to do with this request.
    Out,
    /// What the answer says is told here.
    Leads(Arc<Flight>),
}

/// What a caller wants of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Usual,
    Off,
    /// A new answer, which is kept.
    Refresh,
    /// None that is older.
    MaxAge(Duration),
}

impl Visit for CacheVisit {
    fn request<'a>(
        &'a mut self,
        cx: &'a mut Context,
        document: &'a mut Document,
    ) -> BoxFuture<'a, Outcome<RequestVerdict>> {
        Box::pin(self.ask(cx, document))
    }

    fn start(&mut self, _attempt: u32) {
        if let State::Leads(flight) = &self.state {
            flight.begin();
        }
    }

    fn event<'a>(
        &'a mut self,
        _cx: &'a mut Context,
        event: Event,
        out: &'a mut Vec<Event>,
    ) -> BoxFuture<'a, Outcome<EventVerdict>> {
        let told = match &self.state {
            State::Leads(flight) => Some((flight.clone(), event.clone())),
            State::Fresh | State::Out => None,
        };
        out.push(event);
        Box::pin(async move {
            if let Some((flight, event)) = told {
                flight.push(event).await;
            }
            Ok(EventVerdict::Continue)
        })
    }

    fn response<'a>(
        &'a mut self,
        _cx: &'a mut Context,
        _target: &'a Candidate,
        response: &'a mut Response,
    ) -> BoxFuture<'a, Outcome<ResponseVerdict>> {
        if let State::Leads(flight) = &self.state {
            flight.push_whole(response);
        }
        Box::pin(std::future::ready(Ok(ResponseVerdict::Continue)))
    }

    fn made(&mut self) {
        if let State::Leads(flight) = std::mem::replace(&mut self.state, State::Out) {
            flight.fail(None);
        }
    }

    fn done(&self) -> bool {
        matches!(self.state, State::Out)
    }
}

impl CacheVisit {
    async fn ask(&mut self, cx: &mut Context, document: &mut Document) -> Outcome<RequestVerdict> {
        let wish = match wish(cx) {
            Ok(wish) => wish,
            Err(error) => return Ok(RequestVerdict::Fail(error)),
        };
        let why = match wish {
            Wish::Off => Some("its caller does not want it"),
            _ => match self.unfit(cx, document) {
                Ok(why) => why,
                // Whoever reads it next tells what is wrong with it.
                Err(_) => Some("it cannot be read"),
            },
        };
        if let Some(why) = why {
            self.state = State::Out;
            cx.trace.note(&self.shared.name, &format!("not cached: {why}"));
            return Ok(RequestVerdict::Continue);
        }
        let Ok(key) = Key::of(cx, document, &self.shared.policy, &self.shared.headers) else {
            self.state = State::Out;
            return Ok(RequestVerdict::Continue);
        };
        self.answer(cx, key, wish, document.stream()).await
    }

    /// Why nothing of this request is kept; `None`: it may be.
    fn unfit(&self, cx: &Context, document: &mut Document) -> crate::error::Result<Option<&'static str>> {
        match cx.operation {
            Operation::Chat => {}
            // The same text has the same vector: nothing is drawn, and nothing run.
            Operation::Embeddings if self.shared.config.embeddings => return Ok(None),
            Operation::Embeddings => return Ok(Some("it asks for vectors (`cache.embeddings`)")),
            _ => return Ok(Some("only chats and vectors are")),
        }
        if document.runs_tools()? {
            return Ok(Some("its provider would run tools for it"));
        }
        if !self.shared.config.sampled && document.is_sampled()? {
            return Ok(Some("its answer is drawn by lot (`cache.sampled`)"));
        }
        Ok(None)
    }

    async fn answer(&mut self, cx: &mut Context, key: Key, wish: Wish, stream: bool) -> Outcome<RequestVerdict> {
        let Shared { cache, config, .. } = &*self.shared;
        let most = match wish {
            Wish::MaxAge(most) => most,
            _ => config.ttl,
        };
        let began = clock::now();
        let counts = !self.dry && cache.is_live();
        let mut fallen = 0;
        loop {
            if wish != Wish::Refresh {
                let found = cache.look(&key, most, config.ttl);
                if counts {
                    metrics().cache_memory().read(if found.is_some() { "hit" } else { "miss" });
                }
                if let Some(kept) = found {
                    self.state = State::Out;
                    return Ok(hit(cx, &kept, counts, Duration::ZERO));
                }
            }
            if self.dry {
                self.state = State::Out;
                let lies = match wish {
                    Wish::Refresh => None,
                    _ => cache.peek(&key, most, config.ttl).await,
                };
                return Ok(lies.map_or(RequestVerdict::Continue, |kept| hit(cx, &kept, counts, Duration::ZERO)));
            }
            // Who waited for two flights in vain waits for no third one.
            let shares = cache.is_live()
                && config.single_flight
                && wish != Wish::Refresh
                && fallen < MOST_FLIGHTS
                && cx.operation == Operation::Chat;
            let boarding = match shares {
                true => cache.board(&key, config.max_answer),
                false => Boarding::Lead(cache.alone(&key, config.max_answer)),
            };
            let mut follower = match boarding {
                Boarding::Lead(mut leading) => {
                    // It may have landed between the look and the boarding.
                    let landed = if shares { cache.look(&key, most, config.ttl) } else { None };
                    let found = match landed {
                        Some(kept) => Some(kept),
                        None => leading.search(wish != Wish::Refresh, most, config.ttl).await,
                    };
                    let Some(kept) = found else { return Ok(self.lead(cx, leading, began)) };
                    self.state = State::Out;
                    return Ok(hit(cx, &kept, counts, clock::since(began)));
                }
                Boarding::Follow(follower) => follower,
            };
            let until = cx.deadline.unwrap_or_else(|| clock::now() + FAR);
            let waiting = wait_for(&mut follower, stream);
            let fell = match clock::timeout_at(until, waiting).await {
                Err(clock::Elapsed) => {
                    let text = "the request that this one waited for took too long; try again later";
                    return Ok(RequestVerdict::Fail(Error::new(Kind::UpstreamTimeout, text)));
                }
                Ok(Err(fell)) => fell,
                Ok(Ok(whole)) => {
                    if let Some(kept) = follower.given() {
                        // Nothing flew: who was first found an answer, which may be too old for this one.
                        if kept.age(clock::now()) >= most {
                            continue;
                        }
                        self.state = State::Out;
                        return Ok(hit(cx, &kept, counts, clock::since(began)));
                    }
                    self.state = State::Out;
                    asked(cx, cache, CacheWord::Shared, began);
                    return Ok(match whole {
                        Some(response) => RequestVerdict::Respond(response),
                        None => RequestVerdict::Follow(Box::new(follower)),
                    });
                }
            };
            fallen += 1;
            // Its leader failed: the first who comes back here leads. What an upstream refuses it refuses for all, and one
            // that failed twice is not asked by each of those that wait.
            if let Some(error) = fell.filter(|error| !error.retryable() || fallen >= MOST_FLIGHTS) {
                return Ok(RequestVerdict::Fail(error.copy()));
            }
        }
    }

    fn lead(&mut self, cx: &mut Context, leading: Leading, began: Instant) -> RequestVerdict {
        self.state = State::Leads(leading.flight().clone());
        asked(cx, &self.shared.cache, CacheWord::Miss, began);
        RequestVerdict::Lead(Box::new(leading))
    }
}

/// `None`: it can be heard live. An error that is `None` is no business of who followed.
async fn wait_for(follower: &mut Follower, stream: bool) -> Result<Option<Box<Response>>, Option<Arc<Error>>> {
    match stream {
        true => follower.committed().await.map(|()| None),
        false => follower.whole().await.map(|whole| Some(Box::new(fresh(&whole)))),
    }
}

fn asked(cx: &mut Context, cache: &Cache, word: CacheWord, began: Instant) {
    if cache.is_live() {
        metrics().cache_asked(word);
    }
    cx.cached = Some(Box::new(Cached { waited: clock::since(began), ..Cached::new(word) }));
}

/// The answer that is there. `waited`: for what is not this gateway's own work.
fn hit(cx: &mut Context, kept: &Kept, counts: bool, waited: Duration) -> RequestVerdict {
    if counts {
        metrics().cache_asked(CacheWord::Hit);
    }
    cx.cached = Some(Box::new(Cached {
        age: kept.age(clock::now()),
        target: Some(kept.target.clone()),
        saved_nano_usd: kept.worth(),
        waited,
        ..Cached::new(CacheWord::Hit)
    }));
    match &kept.given {
        Given::Said(response) => RequestVerdict::Respond(Box::new(fresh(response))),
        Given::Vectors(bytes) => RequestVerdict::Repeat(bytes.clone()),
    }
}

/// An answer is called by a name of its own: ids are of requests, and clients keep things by them.
fn fresh(response: &Response) -> Response {
    Response { id: String::new(), created: None, ..response.clone() }
}

/// An event of somebody else's answer as one's own: see `fresh`.
pub fn own(event: Event) -> Event {
    match event {
        Event::Start(start) => Event::Start(Start { id: String::new(), created: None, ..start }),
        other => other,
    }
}

/// `x-portcullis-cache`.
fn wish(cx: &Context) -> Result<Wish, Error> {
    let Some((_, value)) = cx.headers.iter().find(|(name, _)| name == HEADER) else { return Ok(Wish::Usual) };
    let known = match value.trim() {
        "off" => Some(Wish::Off),
        "refresh" => Some(Wish::Refresh),
        other => {
            let seconds = other.strip_prefix("max-age=").and_then(|seconds| seconds.parse().ok());
            seconds.map(|seconds| Wish::MaxAge(Duration::from_secs(seconds)))
        }
    };
    known.ok_or_else(|| Error::invalid(HEADER, "`x-portcullis-cache` may be `off`, `refresh` or `max-age=SECONDS`"))
}

const HEADER: &str = "x-portcullis-cache";
/// Flights that one request waits for. Whoever fails by an upstream is followed by one more try of another, not by one of each.
const MOST_FLIGHTS: u32 = 2;
const FAR: Duration = Duration::from_secs(3600);
