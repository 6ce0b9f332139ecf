//! Questions that a stage asks of a model on its own: what they are, and who answers. A question is a request of its own
//! that passes no stage; whoever answers meters it to the caller of the request at hand. Here is no network: the gateway
//! gives itself as the `Asker`, tests give a stand-in, and a dry run has nobody.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;

use crate::{auth::Principal, context::Context, error::Error, model::Request};

/// Answers questions. Its futures do not borrow: who asks may wait elsewhere.
pub trait Asker: Send + Sync {
    fn ask(&self, question: Question) -> BoxFuture<'static, Result<Answer, Error>>;
    fn embed(&self, question: Embed) -> BoxFuture<'static, Result<Vectors, Error>>;
}

/// For whom a question is asked, by which stage, and how long it may take.
#[derive(Debug, Clone)]
pub struct Behalf {
    pub stage: Arc<str>,
    pub principal: Arc<Principal>,
    /// The operator named this model for this stage: the caller's own list does not matter.
    pub named: bool,
    /// Of the request at hand.
    pub request: Arc<str>,
    pub tags: Vec<(String, String)>,
    pub until: Instant,
}

impl Behalf {
    /// On behalf of this request's caller, at most so long.
    pub fn of(cx: &Context, stage: &Arc<str>, named: bool, wait: Duration) -> Behalf {
        Behalf {
            stage: stage.clone(),
            principal: cx.principal.clone(),
            named,
            request: cx.id.clone(),
            tags: cx.tags.clone(),
            until: cx.until(wait),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Question {
    pub behalf: Behalf,
    /// Its model is an alias or `provider/model`.
    pub request: Request,
}

/// Texts to be made vectors.
#[derive(Debug, Clone)]
pub struct Embed {
    pub behalf: Behalf,
    pub model: String,
    pub texts: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    pub text: String,
    /// For the decision trace: who answered, what it used.
    pub note: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vectors {
    /// In the order of the texts.
    pub vectors: Vec<Vec<f32>>,
    pub note: String,
}

/// Who answers the questions of a pipeline's stages: each pipeline has a place of its own, because questions go where the
/// runtime that it belongs to says. The default is nobody: each question has an empty answer, and the trace says why.
#[derive(Clone, Default)]
pub struct Asks {
    asker: Option<Arc<Place>>,
    waits: bool,
}

type Place = Mutex<Option<Arc<dyn Asker>>>;

impl Asks {
    /// To be filled in with `answer_with` when there is somebody.
    pub fn live() -> Asks {
        Asks { asker: Some(Arc::default()), waits: true }
    }

    /// In a rehearsal: no thread waits, because time is virtual.
    pub fn rehearsed() -> Asks {
        Asks { waits: false, ..Asks::live() }
    }

    /// A place of the same kind that is still empty: for another pipeline.
    pub fn anew(&self) -> Asks {
        Asks { asker: self.asker.as_ref().map(|_| Arc::default()), waits: self.waits }
    }

    /// Can anybody be asked?
    pub fn anybody(&self) -> bool {
        self.asker.is_some()
    }

    /// May an answer take its time?
    pub fn wait(&self) -> bool {
        self.waits
    }

    pub fn answer_with(&self, asker: Arc<dyn Asker>) {
        if let Some(place) = &self.asker {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(asker);
        }
    }

    pub fn ask(&self, question: Question) -> BoxFuture<'static, Result<Answer, Error>> {
        match self.asker() {
            Some(asker) => asker.ask(question),
            None => silent(Answer { text: String::new(), note: unasked(&question.request.model) }),
        }
    }

    pub fn embed(&self, question: Embed) -> BoxFuture<'static, Result<Vectors, Error>> {
        match self.asker() {
            Some(asker) => asker.embed(question),
            None => silent(Vectors { vectors: Vec::new(), note: unasked(&question.model) }),
        }
    }

    fn asker(&self) -> Option<Arc<dyn Asker>> {
        self.asker.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn silent<T: Send + 'static>(value: T) -> BoxFuture<'static, Result<T, Error>> {
    Box::pin(std::future::ready(Ok(value)))
}

fn unasked(model: &str) -> String {
    format!("{model} was not asked: nobody answers here")
}

/// What a stage was granted of this: any model that its caller may use, or those that the operator named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AskGrant {
    any: bool,
    named: Vec<String>,
}

impl AskGrant {
    /// From `grant = ["ask", "ask:provider/model"]`.
    pub fn of(grants: &[String]) -> AskGrant {
        let named = grants.iter().filter_map(|grant| grant.strip_prefix("ask:")).map(str::to_owned);
        AskGrant { any: grants.iter().any(|grant| grant == "ask"), named: named.collect() }
    }

    pub fn is_none(&self) -> bool {
        !self.any && self.named.is_empty()
    }

    /// `Some(true)`: whoever calls; `Some(false)`: if the caller may use it; `None`: not by this stage.
    pub fn allows(&self, model: &str) -> Option<bool> {
        if self.named.iter().any(|pattern| crate::auth::wildcard(pattern, model)) {
            return Some(true);
        }
        self.any.then_some(false)
    }
}
