//! Hours of traffic through one gateway, in virtual time: requests come by chance and at once, providers behave as they are
//! scripted to (`provider`), and what came of it is weighed (`report`). No sockets, no sleeps, and the same seed gives the same
//! day. What the gateway promises of such days is asserted in `days`, and stands as a table in README.md.

mod days;
mod provider;
mod report;

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{Either, select},
    stream::FuturesUnordered,
};
use http::Request;
use http_body_util::BodyExt;
use serde_json::json;

use self::{
    provider::{Provider, Providers},
    report::Day,
};
use super::{House, NEW_YEAR, Scene};
use crate::{
    auth::Principal,
    clock,
    config::{Config, Sources},
    context::{Context, Trace},
    endpoint::Found,
    gateway::Gateway,
    model::{Format, Operation},
    pipeline::Pipeline,
    route::Cast,
};

/// A day: what is configured, who answers, and who asks.
struct Script<'a> {
    name: &'static str,
    /// gateway.toml. Providers of `providers` need no table there.
    config: &'a str,
    providers: Vec<Provider>,
    crowds: Vec<Crowd>,
    seed: u64,
}

/// Callers of one tenant, who ask by chance.
#[derive(Clone, Copy)]
struct Crowd {
    team: &'static str,
    /// Requests a minute, on average.
    rate: f64,
    from: Duration,
    to: Duration,
    stream: bool,
}

/// What one request was, seen from its caller.
#[derive(Clone, Copy)]
struct Asked {
    number: u64,
    team: &'static str,
    at: Duration,
    status: u16,
    /// The answer came to its end, and is none of an error.
    complete: bool,
    /// It ended with an error in the caller's own format.
    told: bool,
    /// To the first byte of the body, and to its end.
    first: Duration,
    took: Duration,
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

const fn hours(n: u64) -> Duration {
    minutes(n * 60)
}

impl Crowd {
    fn new(rate: f64, to: Duration) -> Crowd {
        Crowd { team: "labs", rate, from: Duration::ZERO, to, stream: true }
    }

    fn of(self, team: &'static str) -> Crowd {
        Crowd { team, ..self }
    }

    fn since(self, from: Duration) -> Crowd {
        Crowd { from, ..self }
    }
}

/// Plays a day to its end.
fn play(script: Script<'_>) -> Day {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (start, real) = (Instant::now(), Instant::now());
    fastrand::seed(script.seed);
    let wall = SystemTime::UNIX_EPOCH + NEW_YEAR;
    let mut day = runtime.block_on(clock::virtually(start, wall, through(script, start)));
    day.real = real.elapsed();
    day
}

async fn through(script: Script<'_>, start: Instant) -> Day {
    let Script { name, config, providers, crowds, seed } = script;
    let providers = Arc::new(Providers::new(providers, start, seed));
    let config = read(&format!("{config}\n{}", providers.tables()));
    let house = House::new(&config, &Pipeline::default(), &Cast::default(), || {}).expect("a house");
    let (gateway, mut settled) = house.open(&Scene::default(), start, providers.clone()).expect("a gateway");
    gateway.state.health.quotas.configure(&config.quotas, gateway.runtime.load().routes.providers());
    let (mut flying, mut asked, mut attempts) = (FuturesUnordered::new(), Vec::new(), 0);
    for (n, (at, crowd)) in arrivals(&crowds, seed).into_iter().enumerate() {
        let mut due = pin!(clock::sleep_until(start + at));
        loop {
            if flying.is_empty() {
                due.as_mut().await;
                break;
            }
            match select(due.as_mut(), flying.next()).await {
                Either::Left(_) => break,
                Either::Right((done, _)) => asked.extend(done),
            }
        }
        let request = one(gateway.clone(), house.whole(), n as u64, at, crowds[crowd]);
        flying.push(request);
        while let Some(settled) = settled.first() {
            attempts += u64::from(settled.0.record.attempts);
        }
    }
    while let Some(done) = flying.next().await {
        asked.push(done);
    }
    while let Some(settled) = settled.first() {
        attempts += u64::from(settled.0.record.attempts);
    }
    let length = crowds.iter().map(|crowd| crowd.to).max().unwrap_or_default();
    Day::new(name, length, asked, attempts, providers.heard())
}

/// When somebody asks, and who: as independent people do.
fn arrivals(crowds: &[Crowd], seed: u64) -> Vec<(Duration, usize)> {
    let mut all = Vec::new();
    for (n, crowd) in crowds.iter().enumerate() {
        let mut lots = fastrand::Rng::with_seed(seed ^ (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut at = crowd.from;
        loop {
            at += Duration::from_secs_f64(-(1.0 - lots.f64()).ln() * 60.0 / crowd.rate);
            if at >= crowd.to {
                break;
            }
            all.push((at, n));
        }
    }
    all.sort();
    all
}

async fn one(gateway: Arc<Gateway>, whole: Duration, n: u64, at: Duration, who: Crowd) -> Asked {
    let began = clock::now();
    let text = format!("question #{n} of the day");
    let body = json!({ "model": "smart", "stream": who.stream, "messages": [{ "role": "user", "content": text }] });
    let principal = Principal { key_id: who.team.into(), team: Some(who.team.into()), ..Principal::default() };
    let mut cx = Context::aside(Operation::Chat, Format::OpenaiChat, principal.into(), Vec::new(), began + whole);
    // Lots that differ from those of the arrivals.
    (cx.id, cx.seed, cx.beside) = (format!("req_{n:032x}").into(), n.wrapping_mul(0xd134_2543_de82_ef95), false);
    cx.trace = Trace::default();
    let found = Found {
        operation: Operation::Chat,
        format: Format::OpenaiChat,
        stream: None,
        model: None,
        id: None,
        rest: None,
        json_array: false,
        single: false,
        legacy: false,
    };
    let (parts, ()) = Request::builder().method("POST").uri("/simulated").body(()).expect("a request").into_parts();
    let body = Bytes::from(body.to_string());
    let response = Box::pin(gateway.rehearse(cx, &found, &parts, body)).await;
    let (head, mut body) = response.into_parts();
    let (mut first, mut bytes, mut broken) = (None, Vec::new(), false);
    while let Some(frame) = body.frame().await {
        first.get_or_insert_with(|| clock::since(began));
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => bytes.extend_from_slice(&data),
            Ok(Err(_)) => {}
            Err(_) => broken = true,
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let ended = !who.stream || text.trim_end().ends_with("data: [DONE]");
    let told = text.contains("\"error\"");
    Asked {
        number: n,
        team: who.team,
        at,
        status: head.status.as_u16(),
        complete: head.status == 200 && ended && !told && !broken,
        told: told && !text.contains("[DONE]"),
        first: first.unwrap_or_else(|| clock::since(began)),
        took: clock::since(began),
    }
}

fn read(toml: &str) -> Arc<Config> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, toml).expect("written");
    let place = crate::config::Place::File(file);
    let loaded = crate::config::read(&place, &|_| None, &crate::provider::catalog_names());
    assert_eq!(loaded.problems, []);
    Arc::new(Config { sources: Sources::default(), ..loaded.config })
}
