//! Requests: decoded as a client of one format, encoded for every format, decoded again, compared.

use portcullis::{
    codec::{Dialect, Inbound, codec},
    error::Kind,
    model::{Format, Part, Request, Tool, ToolChoice},
};
use serde_json::Value;

use super::{cases, known, meaning};

/// How one crossing ended.
pub enum Outcome {
    Kept,
    /// 400 that names the feature.
    Refused(String),
    Lost(Vec<String>),
}

#[test]
fn requests_keep_their_meaning_in_every_format() {
    let mut faults = Vec::new();
    let mut crossed = 0;
    for case in cases::all() {
        let Some(body) = case.bytes("request.json") else { continue };
        let (model, stream) = case.path_facts();
        let inbound = Inbound { model: model.as_deref(), stream, ..Inbound::default() };
        let request = match codec(case.format).decode_request(&body, inbound) {
            Ok(request) => request,
            Err(e) => {
                faults.push(format!("{case}: does not decode: {e}"));
                continue;
            }
        };
        for target in Format::ALL {
            crossed += 1;
            match cross(&request, case.format, target) {
                Outcome::Kept => {}
                Outcome::Refused(feature) if refusal_is_known(&request, target, &feature) && target != case.format => {}
                Outcome::Refused(feature) => faults.push(format!("{case} → {}: refused `{feature}`", target.name())),
                Outcome::Lost(what) => faults.push(format!("{case} → {}: {}", target.name(), what.join("; "))),
            }
        }
    }
    cases::report(&faults);
    assert!(crossed >= 90, "only {crossed} crossings: cases are missing");
}

/// A feature's name, or the kind of a hosted tool or native part that is in the request.
fn refusal_is_known(request: &Request, target: Format, feature: &str) -> bool {
    let foreign = |format: &Format, kind: &str| *format != target && kind == feature;
    let hosted = request.tools.iter().any(|t| matches!(t, Tool::Hosted { format, kind, .. } if foreign(format, kind)));
    let native = |p: &Part| matches!(p, Part::Native { format, kind, .. } if foreign(format, kind));
    let inside = |p: &Part| matches!(p, Part::ToolResult(r) if r.parts.iter().any(native));
    let parts = || request.messages.iter().flat_map(|m| &m.parts);
    hosted || parts().any(|p| native(p) || inside(p)) || known::may_refuse(target, feature)
}

/// A wire that cannot name a tool to be called forces the only one that is left.
fn forced_alone(request: &Request, again: &Request, target: Format) -> bool {
    let wanted = match &request.tool_choice {
        Some(ToolChoice::Tool { name, .. }) => name,
        Some(ToolChoice::Allowed { names, required: true }) if names.len() == 1 => &names[0],
        _ => return false,
    };
    let alone = matches!(&again.tools[..], [Tool::Function(only)] if only.name == *wanted);
    known::forces_the_only_tool(target) && alone && again.tool_choice == Some(ToolChoice::Required)
}

pub fn cross(request: &Request, source: Format, target: Format) -> Outcome {
    let dialect = Dialect::of("golden-model");
    let encoded = match codec(target).encode_request(request, &dialect) {
        Ok(encoded) => encoded,
        Err(e) if e.kind == Kind::Unsupported && e.status() == 400 && e.param.is_some() => {
            return Outcome::Refused(e.param.clone().unwrap_or_default());
        }
        Err(e) => return Outcome::Lost(vec![format!("does not encode: {e}")]),
    };
    let body = Value::Object(encoded.body).to_string();
    let inbound = Inbound { model: Some("golden-model"), stream: Some(request.stream), ..Inbound::default() };
    let again = match codec(target).decode_request(body.as_bytes(), inbound) {
        Ok(again) => again,
        Err(e) => return Outcome::Lost(vec![format!("what was encoded does not decode: {e}")]),
    };
    let dropped = |name: &str| encoded.dropped.contains(&name);
    let json_mode = |name: &str| known::request_exception(target, name) && dropped("response_format");
    let before = meaning::of_request(request, target);
    let mut after = meaning::of_request(&again, target);
    if dropped("response_format") {
        // The line that asks for JSON stands behind the caller's own system text.
        let (was, is) = (before[0].1[0].clone(), &mut after[0].1[0]);
        if is.starts_with(&was) {
            *is = was;
        }
    }
    let no_calls = matches!(request.tool_choice, Some(ToolChoice::None)) && known::leaves_tools_out(target);
    let no_calls = no_calls || forced_alone(request, &again, target);
    let about_tools = ["tools", "tool descriptions", "tool_choice"];
    let declared = request.tools.is_empty() && known::declares_past_calls(target);
    let drawn = matches!(&again.tools[..], [Tool::Hosted { kind, .. }] if kind == "image_generation");
    let added = declared || (request.tools.is_empty() && drawn && known::draws_by_a_tool(target));
    let free = |name: &str| json_mode(name) || (no_calls && about_tools.contains(&name)) || (added && name == "tools");
    let mut faults = meaning::lost(&before, &after, &free);
    let raised = request.reasoning.is_some();
    let skip = |name: &str| {
        dropped(name)
            || (name == "max_tokens" && raised)
            || (name == "n" && target == source)
            || (name == "reasoning_effort" && (dropped("reasoning") || dropped("reasoning_effort")))
    };
    let (knobs, mut written) = (meaning::knobs(request), meaning::knobs(&again));
    if request.max_tokens.is_none() {
        // A format that requires a bound was given one.
        written.iter_mut().filter(|(name, _)| *name == "max_tokens").for_each(|(_, v)| v.clear());
    }
    faults.extend(meaning::lost(&knobs, &written, &skip));
    if faults.is_empty() { Outcome::Kept } else { Outcome::Lost(faults) }
}
