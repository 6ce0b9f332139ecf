//! What stages ask of models in a rehearsal: the gateway answers on its own way (`aside`), from the scene's upstreams, and what was
//! asked is kept for those who want to know. Decides nothing, and sends nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

use super::upstream::Stage;
use crate::{
    aside::Inside,
    error::{Error, Result},
    gateway::Gateway,
    model::{Message, Operation, Request, Role},
    pipeline::ask::{Answer, Asker, Embed, Question, Vectors},
    runtime::Runtime,
};

/// A question and what came of it.
#[derive(Debug, Clone, Default)]
pub struct Put {
    /// As the stage named it.
    pub model: String,
    /// Who was asked last; `None`: nobody was reached.
    pub target: Option<Arc<str>>,
    pub status: u16,
    pub code: Option<String>,
    pub system: String,
    /// All other turns.
    pub prompt: String,
    /// That were to become vectors.
    pub texts: Vec<String>,
    /// The model's answer.
    pub text: String,
    /// What the trace tells of it.
    pub note: String,
}

/// Of one scene.
pub struct Questions {
    inside: Arc<Inside>,
    upstreams: Arc<Stage>,
    put: Arc<Mutex<Vec<Put>>>,
}

impl Questions {
    pub fn of(gateway: &Arc<Gateway>, runtime: &Arc<Runtime>, upstreams: &Arc<Stage>) -> Arc<Questions> {
        let inside = Inside::of(gateway, runtime);
        Arc::new(Questions { inside, upstreams: upstreams.clone(), put: Arc::default() })
    }

    /// In order.
    pub fn put(&self) -> Vec<Put> {
        std::mem::take(&mut *locked(&self.put))
    }

    fn asked<T: Send + 'static>(
        &self,
        operation: Operation,
        mut put: Put,
        answering: BoxFuture<'static, Result<T>>,
        told: fn(&T, &mut Put),
    ) -> BoxFuture<'static, Result<T>> {
        let (upstreams, kept) = (self.upstreams.clone(), self.put.clone());
        Box::pin(async move {
            let aside = upstreams.aside(operation);
            let outcome = answering.await;
            put.target = aside.target();
            match &outcome {
                Ok(answer) => {
                    put.status = 200;
                    told(answer, &mut put);
                }
                Err(error) => refused(error, &mut put),
            }
            locked(&kept).push(put);
            outcome
        })
    }
}

impl Asker for Questions {
    fn ask(&self, question: Question) -> BoxFuture<'static, Result<Answer>> {
        let put = put(&question.request);
        let told = |answer: &Answer, put: &mut Put| {
            (put.text, put.note) = (answer.text.clone(), answer.note.clone());
        };
        self.asked(Operation::Chat, put, self.inside.ask(question), told)
    }

    fn embed(&self, question: Embed) -> BoxFuture<'static, Result<Vectors>> {
        let put = Put { model: question.model.clone(), texts: question.texts.clone(), ..Put::default() };
        let told = |answer: &Vectors, put: &mut Put| put.note.clone_from(&answer.note);
        self.asked(Operation::Embeddings, put, self.inside.embed(question), told)
    }
}

fn put(request: &Request) -> Put {
    let (mut system, mut prompt) = (Vec::new(), Vec::new());
    for turn in &request.messages {
        let into = if matches!(turn.role, Role::System | Role::Developer) { &mut system } else { &mut prompt };
        into.push(Message::joined_text(turn));
    }
    Put { model: request.model.clone(), system: system.join("\n"), prompt: prompt.join("\n"), ..Put::default() }
}

fn refused(error: &Error, put: &mut Put) {
    (put.status, put.code) = (error.status(), Some(error.code().to_owned()));
}

fn locked(put: &Mutex<Vec<Put>>) -> MutexGuard<'_, Vec<Put>> {
    put.lock().unwrap_or_else(PoisonError::into_inner)
}
