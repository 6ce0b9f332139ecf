//! A line at a time: scripts' own words tried on one request, with the context on the desk as in `fn request`. Lines that do
//! not end an expression wait for more. Sends nothing; memory is fresh, metrics go nowhere, models are not asked.

use std::sync::Arc;

use rhai::{AST, Dynamic, Engine, EvalAltResult, ParseErrorType, Scope};

use super::{
    Scripts,
    ask_view::{Asking, Terms, asking},
    context_view::ContextView,
    convert,
    desk::{Desk, HostError, Own},
    engine::{Host, within},
    request_view::RequestView,
    target_view::TargetView,
    verdict::Verdict,
};
use crate::{
    codec::document::Document,
    config::{Sources, StageLimits},
    context::{Context, Step},
    pipeline::{Candidate, Effects, Phase, ask::AskGrant},
};

pub struct Repl {
    host: Arc<Host>,
    desk: Arc<Desk>,
    scope: Scope<'static>,
    /// Functions of lines so far.
    functions: AST,
    /// Lines that wait for their end.
    open: String,
    /// Notes that were shown.
    shown: usize,
}

/// What a line came to.
#[derive(Debug, PartialEq)]
pub enum Told {
    /// A value as it is written; nothing for `()`.
    Value(String),
    Nothing,
    /// The expression goes on.
    More,
    Error(String),
}

impl Repl {
    pub fn new(
        sources: &Sources,
        config: serde_json::Map<String, serde_json::Value>,
        cx: Context,
        doc: Document,
    ) -> Repl {
        let desk = Arc::new(Desk::new(Arc::new(Own { stage: NAME.into(), effects: Effects::dry(), config })));
        desk.with(|lent| {
            lent.phase = Some(Phase::Request);
            lent.cx = Some(Box::new(cx));
            lent.doc = Some(Box::new(doc));
        });
        let mut scope = Scope::new();
        scope.push_dynamic("request", Dynamic::from(RequestView(desk.clone())));
        scope.push_dynamic("context", Dynamic::from(ContextView(desk.clone())));
        scope.push_dynamic("targets", rhai::Array::new().into());
        let host = Scripts::dry().host(sources);
        Repl { host, desk, scope, functions: AST::empty(), open: String::new(), shown: 0 }
    }

    /// What `targets` holds from here on.
    pub fn targets(&mut self, candidates: Vec<Candidate>) {
        let views = candidates.into_iter().map(|c| Dynamic::from(TargetView(Arc::new(c))));
        self.scope.set_value("targets", views.collect::<rhai::Array>());
    }

    pub fn line(&mut self, line: &str) -> Told {
        self.open.push_str(line);
        self.open.push('\n');
        if self.open.trim().is_empty() {
            self.open.clear();
            return Told::Nothing;
        }
        let host = self.host.clone();
        let program = match host.loose.compile_with_scope(&self.scope, &self.open) {
            Ok(program) => program,
            Err(error) if goes_on(&error, &self.open) && !line.trim().is_empty() => return Told::More,
            Err(error) => {
                self.open.clear();
                return Told::Error(error.to_string());
            }
        };
        self.open.clear();
        let whole = self.functions.merge(&program);
        let outcome = self.eval(&host.loose, &whole);
        self.functions = whole.clone_functions_only();
        match outcome {
            Ok(value) if value.is_unit() => Told::Nothing,
            Ok(value) => Told::Value(written(&value)),
            Err(error) => Told::Error(told(&error)),
        }
    }

    /// Notes that were made since the last look.
    pub fn notes(&mut self) -> Vec<String> {
        let from = self.shown;
        let notes: Vec<String> = self.desk.with(|lent| {
            let steps = lent.cx.iter().flat_map(|cx| &cx.trace.steps);
            steps
                .filter_map(|step| if let Step::Note { text, .. } = step { Some(text.clone()) } else { None })
                .collect()
        });
        self.shown = notes.len();
        notes.into_iter().skip(from).collect()
    }

    fn eval(&mut self, engine: &Engine, program: &AST) -> Result<Dynamic, Box<EvalAltResult>> {
        let limits =
            StageLimits { operations: 10_000_000, wall: std::time::Duration::from_secs(5), ..StageLimits::default() };
        let grant = AskGrant::of(&["ask".to_owned()]);
        let terms = Arc::new(Terms { grant, most: u32::MAX, wait: limits.ask_wait });
        let here = Asking { desk: self.desk.clone(), terms, handle: None, gone: Default::default() };
        let scope = &mut self.scope;
        asking(here, || within(limits, || engine.eval_ast_with_scope(scope, program)).0)
    }
}

/// Is there only something missing at the end?
fn goes_on(error: &rhai::ParseError, text: &str) -> bool {
    let at_end = error.1.line().is_none_or(|line| line > text.lines().count());
    match &*error.0 {
        ParseErrorType::UnexpectedEOF => true,
        ParseErrorType::MissingToken(..) | ParseErrorType::ExprExpected(_) => at_end,
        _ => false,
    }
}

/// A value as a script would write it; of the gateway's own objects the name.
fn written(value: &Dynamic) -> String {
    if let Some(verdict) = value.read_lock::<Verdict>() {
        return match &*verdict {
            Verdict::Reject { status, message } => format!("reject({status}, {message:?})"),
            Verdict::Respond(response) => format!("respond({:?})", response.text()),
            Verdict::Next(reason) => format!("next({reason:?})"),
            Verdict::Skip => "skip()".to_owned(),
            Verdict::Stop(reason) => format!("stop({reason:?})"),
        };
    }
    if let Some(target) = value.read_lock::<TargetView>() {
        return target.0.name.to_string();
    }
    if let Ok(list) = value.as_array_ref() {
        return format!("[{}]", list.iter().map(written).collect::<Vec<_>>().join(", "));
    }
    match convert::to_json(value) {
        Ok(json) => json.to_string(),
        Err(_) => {
            let kind = value.type_name();
            kind.rsplit("::").next().unwrap_or(kind).trim_end_matches("View").to_owned()
        }
    }
}

fn told(error: &EvalAltResult) -> String {
    let mut inner = error;
    while let EvalAltResult::ErrorInFunctionCall(_, _, deeper, _) = inner {
        inner = deeper;
    }
    match inner {
        EvalAltResult::ErrorRuntime(value, _) => match value.read_lock::<HostError>() {
            Some(host) => host.0.clone(),
            None => inner.to_string(),
        },
        EvalAltResult::ErrorTerminated(token, _) => format!("stopped: it took {token}"),
        _ => inner.to_string(),
    }
}

const NAME: &str = "repl";
