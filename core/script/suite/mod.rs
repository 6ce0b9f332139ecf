//! One decision by itself: request and route phases with every side effect kept inside, on candidates that the caller names.
//! Whole cases, with upstreams that answer, are `crate::suite`'s.

mod cases;

pub use cases::{candidate, context};

use crate::{
    codec::document::Document,
    context::Context,
    error::Error,
    pipeline::{Candidate, Chain, Flow, drive},
};

/// What names stand for. Without a configuration a name stands for itself.
pub trait Names {
    /// The targets of one name, in order. An error is the caller's answer (404, 503 …).
    fn resolve(&self, name: &str, cx: &Context) -> Result<Vec<Candidate>, Error>;
}

/// The whole decision on one request.
#[derive(Debug, Default)]
pub struct Decision {
    /// The name that the request phase left in force.
    pub model: String,
    /// Names that a stage chose; `None`: the strategy's order stands.
    pub chosen: Option<Vec<String>>,
    /// `provider/model`, in the order of trial.
    pub targets: Vec<String>,
    /// Of an answer made without a target; 200 for `respond`.
    pub status: Option<u16>,
    pub message: Option<String>,
    /// Text of a `respond`.
    pub text: Option<String>,
}
/// Runs request and route phases as the gateway does, and sends nothing.
pub fn decide(chain: &mut Chain, cx: &mut Context, doc: &mut Document, names: &dyn Names) -> Decision {
    let mut decision = Decision::default();
    let outcome = steps(chain, cx, doc, names, &mut decision);
    decision.model = doc.model().to_owned();
    if let Err(error) = outcome {
        decision.status = Some(error.status());
        decision.message = Some(error.message.clone());
        decision.targets.clear();
    }
    decision
}

fn steps(
    chain: &mut Chain,
    cx: &mut Context,
    doc: &mut Document,
    names: &dyn Names,
    out: &mut Decision,
) -> Result<(), Error> {
    if let Flow::Respond(response) = drive(chain.request(cx, doc))? {
        out.status = Some(200);
        out.text = Some(response.text());
        return Ok(());
    }
    let planned = names.resolve(doc.model(), cx)?;
    out.chosen = drive(chain.route(cx, doc, &planned))?;
    let targets = match &out.chosen {
        None => planned,
        Some(list) => {
            let mut all = Vec::new();
            for name in list {
                all.extend(names.resolve(name, cx)?);
            }
            all
        }
    };
    for target in targets {
        let name = target.name.to_string();
        if !out.targets.contains(&name) {
            out.targets.push(name);
        }
    }
    if out.targets.is_empty() {
        return Err(Error::new(crate::error::Kind::NoTarget, "no target is left for this request"));
    }
    Ok(())
}
