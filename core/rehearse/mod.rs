//! A request through the real gateway with nothing real around it: upstreams answer as they are told to, time is virtual, the
//! store is empty, keys open nothing. What `test`, `replay` and the cases that run before a reload are made of.
//!
//! It decides nothing itself: the steps are `gateway.rs`'s, the stages the pipeline's. Equal scenes give equal outcomes.

pub mod answers;
mod questions;
mod upstream;
mod witness;
mod world;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;

pub use self::{
    answers::{Answer, Answers, Fault, Pieces},
    questions::Put,
    upstream::Heard,
    witness::Asked,
    world::House,
};
use crate::{
    account::{Record, settle},
    auth::Principal,
    clock,
    config::{Config, Stage},
    context::{Context, Priority, Step, Trace},
    endpoint::Found,
    model::{Format, Operation},
    route::Own,
};

/// One request and the world that it meets.
#[derive(Debug, Clone)]
pub struct Scene {
    pub id: Arc<str>,
    pub operation: Operation,
    pub format: Format,
    pub body: Bytes,
    /// Where the format's path says it.
    pub model: Option<String>,
    pub stream: Option<bool>,
    pub headers: HeaderMap,
    pub principal: Arc<Principal>,
    pub now: SystemTime,
    pub seed: u64,
    pub tags: Vec<(String, String)>,
    /// What it asks for.
    pub priority: Option<Priority>,
    /// How targets fare before the request comes.
    pub live: Vec<Own>,
    /// Nano-dollars that were spent of budgets, by the scope (`model:smart`), of teams also by their name alone.
    pub spent: BTreeMap<String, u64>,
    /// Targets whose provider's keys all rest.
    pub resting: Vec<Arc<str>>,
    pub answers: Answers,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The answer broke off where it stood.
    pub broken: bool,
    pub record: Record,
    pub trace: Trace,
    /// The request as its stages left it; `None`: one of them answered or refused it, or it could not be read.
    pub asked: Option<Asked>,
    /// What upstreams heard, in order.
    pub heard: Vec<Heard>,
    /// What its stages asked of models, in order.
    pub questions: Vec<Put>,
    /// Of virtual time.
    pub took: Duration,
}

impl Default for Scene {
    fn default() -> Scene {
        Scene {
            id: "req_00000000000000000000000000000000".into(),
            operation: Operation::Chat,
            format: Format::OpenaiChat,
            body: Bytes::new(),
            model: None,
            stream: None,
            headers: HeaderMap::new(),
            principal: Arc::default(),
            now: SystemTime::UNIX_EPOCH + NEW_YEAR,
            seed: 0,
            tags: Vec::new(),
            priority: None,
            live: Vec::new(),
            spent: BTreeMap::new(),
            resting: Vec::new(),
            answers: Answers::default(),
        }
    }
}

/// Plays a scene to its end. An error is a scene that did not end.
pub async fn play(house: &House, scene: &Scene) -> Result<Outcome, String> {
    // What draws lots (waits between retries) draws the same ones each time.
    fastrand::seed(scene.seed);
    let start = Instant::now();
    let playing = clock::virtually(start, scene.now, on(house, scene, start));
    tokio::time::timeout(PATIENCE, playing)
        .await
        .map_err(|_| format!("it did not end within {} s of real time", PATIENCE.as_secs()))?
}

async fn on(house: &House, scene: &Scene, start: Instant) -> Result<Outcome, String> {
    let set = house.set(scene, start)?;
    let parts = Request::builder().method(Method::POST).uri("/rehearsed").body(());
    let (mut parts, ()) = parts.map_err(|e| e.to_string())?.into_parts();
    parts.headers = scene.headers.clone();
    let found = Found {
        operation: scene.operation,
        format: scene.format,
        stream: scene.stream,
        model: scene.model.clone(),
        id: None,
        rest: None,
        json_array: false,
        single: false,
        legacy: false,
    };
    let response = set.gateway.rehearse(context(house, scene, start), &found, &parts, scene.body.clone()).await;
    let (head, mut body) = response.into_parts();
    let (mut bytes, mut broken) = (Vec::new(), false);
    while let Some(frame) = body.frame().await {
        match frame.map(|frame| frame.into_data()) {
            Ok(Ok(data)) => bytes.extend_from_slice(&data),
            Ok(Err(_)) => {}
            Err(_) => {
                broken = true;
                break;
            }
        }
    }
    drop(body);
    let took = clock::since(start);
    // Questions that its stages asked are requests of their own.
    let mut settled = { set.settled };
    let settled = std::iter::from_fn(|| settled.first()).find(|settled| settled.0.cx.id == scene.id);
    let settled = settled.ok_or("the request was not settled")?;
    let (record, mut trace) = settle::alone(settled, &set.gateway.state.estimates).await;
    trace.steps.retain(|step| !matches!(step, Step::Stage { stage, .. } if &**stage == world::WITNESS));
    Ok(Outcome {
        status: head.status.as_u16(),
        headers: head.headers,
        body: bytes.into(),
        broken,
        record,
        trace,
        asked: set.witness.asked(),
        heard: set.upstreams.heard(),
        questions: set.questions.put(),
        took,
    })
}

/// The stages of a configuration with much more real time: what a busy machine does to a script must not decide. What a script
/// may do stays as it is, and so does where an endless one ends.
pub fn patient(config: &mut Config) {
    let automatic = || config.sources.live().into_iter().map(Stage::automatic).collect();
    let mut stages: Vec<Stage> = config.stages.clone().unwrap_or_else(automatic);
    for stage in &mut stages {
        stage.limits.wall = stage.limits.wall.max(PATIENCE / 4);
        stage.limits.cpu = stage.limits.cpu.saturating_mul(MORE);
        // What failed for one request says nothing to the next.
        stage.park = None;
    }
    config.stages = Some(stages);
    // Rehearsals come one at a time.
    config.server.max_connections = PLACES;
}

fn context(house: &House, scene: &Scene, start: Instant) -> Context {
    Context {
        id: scene.id.clone(),
        operation: scene.operation,
        format: scene.format,
        principal: scene.principal.clone(),
        now: scene.now,
        started: start,
        deadline: Some(start + house.whole()),
        tags: scene.tags.clone(),
        priority: scene.priority.unwrap_or_default(),
        wished: scene.priority,
        sticks: None,
        beside: false,
        drawn: None,
        headers: Vec::new(),
        // Its trace tells more: what a stage chose, too.
        explain: true,
        attempt: 0,
        seed: scene.seed,
        cached: None,
        vars: serde_json::Map::new(),
        trace: Trace::default(),
    }
}

/// 2026-01-01T00:00:00Z.
const NEW_YEAR: Duration = Duration::from_secs(1_767_225_600);
/// Of plugins' instances: one request's, and its neighbours.
const PLACES: usize = 8;
const MORE: u32 = 10;
/// Of real time: what works longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);
