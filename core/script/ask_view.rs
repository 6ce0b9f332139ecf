//! Questions to models: `ask` and `embed_similarity`. A script that may ask runs where a thread may wait (`beside`); here
//! its questions are counted, put together and waited for, and told in the trace. Who answers is not known here.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use rhai::{Array, Dynamic, Map};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    context_view::note_at,
    convert,
    desk::{Desk, Fail, fail},
    engine,
    part_view::message,
    reference::Registrar,
    request_view::json,
};
use crate::{
    clock,
    error::Error,
    model::{Message, Output, ReasoningAsk, Request, Role},
    pipeline::ask::{AskGrant, Behalf, Embed, Question},
};

/// What a stage may ask.
#[derive(Debug)]
pub struct Terms {
    pub grant: AskGrant,
    /// Questions within one request.
    pub most: u32,
    /// The longest that one may take.
    pub wait: Duration,
}

/// A call under way that may ask.
#[derive(Clone)]
pub struct Asking {
    pub desk: Arc<Desk>,
    pub terms: Arc<Terms>,
    /// Where to wait; `None`: there is no runtime, and whoever answers does it at once.
    pub handle: Option<Handle>,
    /// The request is gone.
    pub gone: CancellationToken,
}

thread_local! {
    static ASKING: RefCell<Option<Asking>> = const { RefCell::new(None) };
}

/// Runs `f` as a call that may ask.
pub fn asking<T>(asking: Asking, f: impl FnOnce() -> T) -> T {
    /// Taken back whatever happens in between.
    struct Back(Option<Asking>);
    impl Drop for Back {
        fn drop(&mut self) {
            ASKING.set(self.0.take());
        }
    }
    let _back = Back(ASKING.replace(Some(asking)));
    f()
}

pub fn register(r: &mut Registrar<'_>) {
    r.object(
        "Questions to models",
        "For stages with `grant = [\"ask\"]` (models that the caller may use) or `grant = [\"ask:PROVIDER/MODEL\"]` (that one, whoever calls). A question is a request of its own in the records, with limits and budget of the caller; it passes no stage. A call may ask 4 questions a request (`limits.asks`), each may take 10 s (`limits.ask_wait`); the wait does not count as the script's time. A question that fails is an error, which `try` can catch.",
    );
    r.tell("ask(model, prompt)", "the model's answer as text");
    r.engine.register_fn("ask", |model: &str, prompt: &str| -> Result<Dynamic, Fail> {
        let messages = vec![Message::text(Role::User, prompt)];
        answer(Request { model: model.to_owned(), messages, ..plain() }, false)
    });
    r.tell(
        "ask(model, map)",
        "the same with `prompt` or `messages`, and `system`, `temperature` (default 0), `max_tokens`, `reasoning_effort`, `schema` (a JSON Schema) or `json: true`; with one of these two the answer is a value, () when it is no JSON",
    );
    r.engine.register_fn("ask", |model: &str, map: Map| {
        let (request, value) = question(model, &map)?;
        answer(request, value)
    });
    r.tell(
        "embed_similarity(text, examples)",
        "how near the text is to each example, from -1 to 1, by the embeddings model `config.embeddings` of the stage: an array for an array; for a map of names to arrays the nearest of each. Vectors of examples are kept",
    );
    r.engine.register_fn("embed_similarity", |text: &str, examples: Array| {
        Ok::<Array, Fail>(similar(text, &texts(&examples)?)?.into_iter().map(Dynamic::from).collect())
    });
    r.engine.register_fn("embed_similarity", |text: &str, examples: Map| -> Result<Map, Fail> {
        let mut all = Vec::new();
        for list in examples.values() {
            let list = list.as_array_ref().map_err(|_| fail(EXAMPLES))?;
            all.push(texts(&list)?);
        }
        let near = similar(text, &all.concat())?;
        let mut near = near.into_iter();
        let best = |list: &Vec<String>, near: &mut dyn Iterator<Item = f64>| near.take(list.len()).fold(-1.0, f64::max);
        Ok(examples.keys().zip(&all).map(|(name, list)| (name.clone(), best(list, &mut near).into())).collect())
    });
}

fn plain() -> Request {
    let mut request = Request::default();
    request.sampling.temperature = Some(0.0);
    request
}

/// A question from a map, and whether its answer is to be a value.
fn question(model: &str, map: &Map) -> Result<(Request, bool), Fail> {
    let mut request = Request { model: model.to_owned(), ..plain() };
    let (mut system, mut value) = (None, false);
    for (key, given) in map {
        let wrong = |kind: &str| fail(format!("ask(…, #{{ {key}: … }}) must be {kind}"));
        let text = || convert::text(given).ok_or_else(|| wrong("a text"));
        match key.as_str() {
            "prompt" => request.messages.push(Message::text(Role::User, text()?)),
            "messages" => {
                let list = given.as_array_ref().map_err(|_| wrong("an array of messages"))?;
                let desk = current()?.desk;
                let turns = list.iter().map(|turn| message(turn, &desk)).collect::<Result<Vec<_>, _>>()?;
                request.messages.extend(turns);
            }
            "system" => system = Some(text()?),
            "temperature" if given.is_unit() => request.sampling.temperature = None,
            "temperature" => {
                request.sampling.temperature = Some(convert::number(given).ok_or_else(|| wrong("a number"))?);
            }
            "max_tokens" => {
                let count = given.as_int().ok().and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
                request.max_tokens = Some(count.ok_or_else(|| wrong("a whole number above 0"))?);
            }
            "reasoning_effort" => {
                request.reasoning = Some(ReasoningAsk { effort: Some(text()?), ..ReasoningAsk::default() });
            }
            "schema" => {
                let schema = json("ask", given)?;
                let (name, strict) = (Some("answer".to_owned()), Some(true));
                request.output = Some(Output::Schema { name, description: None, schema, strict });
                value = true;
            }
            "json" => {
                value = given.as_bool().map_err(|_| wrong("true or false"))?;
                if value && request.output.is_none() {
                    request.output = Some(Output::Json);
                }
            }
            _ => {
                return Err(fail(
                    "ask(model, map) knows prompt, messages, system, temperature, max_tokens, reasoning_effort, schema and json",
                ));
            }
        }
    }
    if request.messages.is_empty() {
        return Err(fail("ask(model, map) needs a prompt or messages"));
    }
    if let Some(system) = system {
        request.messages.insert(0, Message::text(Role::System, system));
    }
    Ok((request, value))
}

fn answer(request: Request, value: bool) -> Result<Dynamic, Fail> {
    let asking = current()?;
    let behalf = asking.behalf(&request.model)?;
    let future = asking.desk.effects.asks.ask(Question { behalf, request });
    let answer = asking.wait(future)?;
    note_at(&asking.desk, 0, &answer.note)?;
    if !value {
        return Ok(answer.text.into());
    }
    // Models put JSON into a fence where they were not held to the bare form.
    let text = answer.text.trim();
    let text = text.strip_prefix("```json").or_else(|| text.strip_prefix("```")).unwrap_or(text);
    let text = text.strip_suffix("```").unwrap_or(text);
    Ok(serde_json::from_str(text).map_or(Dynamic::UNIT, |value| convert::from_json(&value)))
}

fn texts(list: &[Dynamic]) -> Result<Vec<String>, Fail> {
    let all: Option<Vec<String>> =
        list.iter().map(|item| convert::text(item).map(|text| cut(&text).to_owned())).collect();
    let all = all.filter(|all| all.iter().all(|text| !text.trim().is_empty())).ok_or_else(|| fail(EXAMPLES))?;
    if all.len() > MOST_EXAMPLES { Err(fail(format!("at most {MOST_EXAMPLES} examples"))) } else { Ok(all) }
}

/// One question for the text and the examples that are not known yet.
fn similar(text: &str, examples: &[String]) -> Result<Vec<f64>, Fail> {
    let asking = current()?;
    if examples.is_empty() || text.trim().is_empty() {
        return Ok(vec![0.0; examples.len()]);
    }
    let model = asking.desk.config.get("embeddings").and_then(|v| v.as_str());
    let model = model.ok_or_else(|| {
        fail("embed_similarity needs a model: [[stages]] config = { embeddings = \"PROVIDER/MODEL\" }")
    })?;
    // What a rehearsal says of a text is no model's word.
    let lasts = asking.desk.effects.asks.wait();
    let known = |text: &String| vectors().get(&(model.to_owned(), text.clone())).filter(|_| lasts).cloned();
    let mut found: Vec<Option<Arc<[f32]>>> = examples.iter().map(known).collect();
    let missing: Vec<usize> = (0..found.len()).filter(|at| found[*at].is_none()).collect();
    let mut texts = vec![cut(text).to_owned()];
    texts.extend(missing.iter().map(|at| examples[*at].clone()));
    let (behalf, wanted) = (asking.behalf(model)?, texts.len());
    let future = asking.desk.effects.asks.embed(Embed { behalf, model: model.to_owned(), texts });
    let answer = asking.wait(future)?;
    note_at(&asking.desk, 0, &answer.note)?;
    if answer.vectors.len() != wanted {
        // Nobody was asked.
        return Ok(vec![0.0; examples.len()]);
    }
    let mut new = answer.vectors.into_iter().map(Arc::<[f32]>::from);
    let own = new.next().unwrap_or_default();
    let mut cache = vectors();
    for (at, vector) in missing.into_iter().zip(new) {
        if cache.len() >= MOST_VECTORS {
            cache.clear();
        }
        if lasts {
            cache.insert((model.to_owned(), examples[at].clone()), vector.clone());
        }
        found[at] = Some(vector);
    }
    Ok(found.iter().map(|vector| vector.as_ref().map_or(0.0, |vector| cosine(&own, vector))).collect())
}

type Known = HashMap<(String, String), Arc<[f32]>>;

/// Of examples, by model and text: the same text has the same vector, whoever asks.
fn vectors() -> std::sync::MutexGuard<'static, Known> {
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return 0.0;
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let length = (dot(a, a) * dot(b, b)).sqrt();
    if length > 0.0 { dot(a, b) / length } else { 0.0 }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST_TEXT)]
}

fn current() -> Result<Asking, Fail> {
    ASKING.with_borrow(Clone::clone).ok_or_else(|| {
        fail("this stage may not ask: list it in [[stages]] with grant = [\"ask\"] or [\"ask:PROVIDER/MODEL\"]")
    })
}

impl Asking {
    /// The right to one more question to this model.
    fn behalf(&self, model: &str) -> Result<Behalf, Fail> {
        let named = self.terms.grant.allows(model).ok_or_else(|| {
            fail(format!("this stage may not ask {model}: its grant in [[stages]] names other models"))
        })?;
        let most = self.terms.most;
        self.desk.with(|lent| {
            lent.questions += 1;
            if lent.questions > most {
                return Err(fail(format!("a stage may ask {most} questions a request (limits.asks in [[stages]])")));
            }
            Ok(())
        })?;
        self.desk.cx(|cx| Behalf::of(cx, &self.desk.stage, named, self.terms.wait))
    }

    /// The call's own time stands still meanwhile.
    fn wait<T>(&self, future: BoxFuture<'static, Result<T, Error>>) -> Result<T, Fail> {
        let outcome = engine::paused(|| match &self.handle {
            None => clock::pass(future),
            Some(handle) => handle.block_on(self.gone.run_until_cancelled(future)),
        });
        match outcome {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(fail(format!("a question failed ({}): {}", error.code(), error.message))),
            None if self.handle.is_none() => Err(fail("a question has no answer: its upstream waits for nothing")),
            None => Err(fail("a question was broken off: the client left")),
        }
    }
}

const EXAMPLES: &str =
    "embed_similarity(text, examples): examples are an array of texts, or a map of names to such arrays";
const MOST_EXAMPLES: usize = 200;
const MOST_VECTORS: usize = 2_000;
/// Bytes of a text that is compared: what embeddings models read.
const MOST_TEXT: usize = 16 << 10;
