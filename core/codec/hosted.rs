//! Tools that a provider runs itself, in a request that goes to another one. A search of the web, a reader of pages and a
//! sandbox for code become the target's own where it has one that keeps the caller's bounds. A search that is only offered is
//! left out and named: a model may answer without it. So is what only finds other tools: those are all there. What is forced,
//! or works on the caller's own things (files, servers, a shell), is left as it is, and the target's codec refuses it by name.
//! Knows no format: each reads and writes its own.

use serde_json::{Map, Value};

use super::{Dialect, codec, ran};
use crate::{
    error::{Error, Result},
    model::{Extra, Format, Message, Part, Request, Tool, ToolChoice, ToolResult},
};

/// What a caller says of a search of the web.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Search {
    /// Only these domains, if any are named; never those.
    pub allowed: Vec<String>,
    pub blocked: Vec<String>,
    /// `{city, country, region, timezone}`.
    pub location: Option<Map<String, Value>>,
    /// `low | medium | high`: how much of what is found the model reads.
    pub context: Option<String>,
    pub max_uses: Option<u64>,
    /// Only in what the provider has read before: no page is fetched.
    pub cached: bool,
}

impl Search {
    /// The allowed domains without the blocked ones: with a list, the other one says no more.
    pub fn domains(&self) -> Vec<&str> {
        self.allowed.iter().filter(|d| !self.blocked.contains(d)).map(String::as_str).collect()
    }
}

/// A request as this target can take it.
pub struct Fitted {
    pub tools: Vec<Tool>,
    pub choice: Option<ToolChoice>,
    pub extra: Extra,
    /// Past turns tell of what other providers ran: records of searches are left out, code is written down.
    pub past: bool,
    pub dropped: Vec<&'static str>,
}

/// `None`: it goes as it is.
pub fn fit(request: &Request, to: Format, dialect: &Dialect) -> Result<Option<Fitted>> {
    let strange = |tool: &Tool| match tool {
        Tool::Hosted { format, kind, value } => {
            *format != to || !dialect.runs(kind) || (dialect.hosted.is_some() && asks_of_vendor(value))
        }
        Tool::Function(_) => false,
    };
    let options = request.extra.any().filter(|(format, fields)| *format != to && fields.contains_key(OPTIONS));
    let past = request.messages.iter().flat_map(|m| &m.parts).any(|part| is_past(part, to));
    if options.is_none() && !past && !request.tools.iter().any(strange) {
        return Ok(None);
    }
    let functions = request.tools.iter().any(|t| matches!(t, Tool::Function(_)));
    let mut out = Fitted {
        tools: Vec::with_capacity(request.tools.len()),
        choice: request.tool_choice.clone(),
        extra: request.extra.clone(),
        past,
        dropped: Vec::new(),
    };
    if past && request.messages.iter().flat_map(|m| &m.parts).any(|part| matches!(past_part(part, to), Past::Left)) {
        out.note("past_searches");
    }
    let own = |search: &Search| own_search(search, to, dialect, functions);
    for tool in &request.tools {
        let Tool::Hosted { format, kind, value } = tool else {
            out.tools.push(tool.clone());
            continue;
        };
        if !strange(tool) {
            out.tools.push(tool.clone());
            continue;
        }
        let search = codec(*format).search(kind, value);
        let own_other = own_other(*format, kind, value, (to, dialect, functions));
        let forced = is_forced(request, kind, value, functions);
        // A server of which nothing is known is asked for a search only if the request cannot do without.
        let wanted = search.as_ref().filter(|_| forced || !dialect.assumed);
        match wanted.and_then(own).or(own_other) {
            Some(tool) => {
                if forced {
                    out.force(&tool, to);
                }
                out.tools.push(tool);
            }
            None if forced => out.tools.push(tool.clone()),
            None if search.is_some() => out.note("web_search"),
            None if kind == PICTURES => out.note(PICTURES),
            None if codec(*format).finds_tools(kind) => out.note("tool_search"),
            None => out.tools.push(tool.clone()),
        }
    }
    if let Some((format, fields)) = options {
        let search = codec(format).search(OPTIONS, &fields[OPTIONS]).unwrap_or_default();
        let Some(tool) = own(&search) else {
            let text = "this model has no web search that could do what `web_search_options` asks; leave it out, or choose \
                        another model";
            return Err(Error::unsupported("web_search", text));
        };
        out.tools.push(tool);
        let mut fields = fields.clone();
        fields.shift_remove(OPTIONS);
        out.extra = Extra::new(format, fields);
    }
    if out.tools.is_empty()
        && matches!(out.choice, Some(ToolChoice::Auto | ToolChoice::Allowed { required: false, .. }))
    {
        out.choice = None;
    }
    Ok(Some(out))
}

impl Fitted {
    fn note(&mut self, name: &'static str) {
        if !self.dropped.contains(&name) {
            self.dropped.push(name);
        }
    }

    /// The choice that forces the target's own tool, where its wire has one.
    fn force(&mut self, tool: &Tool, to: Format) {
        let name = match tool {
            Tool::Hosted { value, .. } => value.get("name").and_then(Value::as_str),
            Tool::Function(_) => None,
        };
        self.choice = match name {
            Some(name) => Some(ToolChoice::Tool { name: name.to_owned(), custom: false }),
            None if to == Format::OpenaiResponses => Some(ToolChoice::Required),
            None => {
                self.note("tool_choice");
                None
            }
        };
    }
}

/// The target's own search, within the caller's bounds.
fn own_search(search: &Search, to: Format, dialect: &Dialect, functions: bool) -> Option<Tool> {
    // Whoever wants no page fetched must not get a search that fetches; and some have a search or functions, not both.
    if search.cached || (functions && dialect.search_alone) {
        return None;
    }
    let kind = dialect.search?;
    let value = codec(to).search_tool(search, kind)?;
    Some(Tool::Hosted { format: to, kind: kind.to_owned(), value })
}

/// The target's own sandbox for code, or reader of pages.
fn own_other(
    from: Format,
    kind: &str,
    tool: &Value,
    (to, dialect, functions): (Format, &Dialect, bool),
) -> Option<Tool> {
    if functions && dialect.search_alone {
        return None;
    }
    let own = |kind: &'static str, value: Value| Tool::Hosted { format: to, kind: kind.to_owned(), value };
    if codec(from).is_code_tool(kind, tool) {
        let kind = dialect.code?;
        return Some(own(kind, codec(to).code_tool(kind)?));
    }
    let (bounds, kind) = (codec(from).fetch(kind, tool)?, dialect.fetch?);
    Some(own(kind, codec(to).fetch_tool(&bounds, kind)?))
}

/// Must this tool be called?
fn is_forced(request: &Request, kind: &str, value: &Value, functions: bool) -> bool {
    let told = || {
        let told = request.extra.any().and_then(|(_, fields)| fields.get("$tool_choice"))?;
        told.get("type").and_then(Value::as_str)
    };
    match &request.tool_choice {
        Some(ToolChoice::Tool { name, .. }) => {
            name == kind || value.get("name").and_then(Value::as_str) == Some(name.as_str())
        }
        Some(ToolChoice::Required) => told().map_or(!functions, |word| word == kind),
        Some(ToolChoice::Allowed { required: true, names }) => !functions || names.is_empty(),
        _ => false,
    }
}

/// Does a search say what only the vendor of the format knows?
fn asks_of_vendor(tool: &Value) -> bool {
    tool.get("external_web_access").is_some()
}

/// What becomes of a part of a past turn.
enum Past {
    Kept,
    /// The record of a search: what it found stands in the answer.
    Left,
    /// Code that was run, and what came of it.
    Written(Part),
}

fn past_part(part: &Part, to: Format) -> Past {
    let Part::Native { format, kind, value } = part else { return Past::Kept };
    let theirs = codec(*format);
    let foreign = *format != to;
    if !foreign && !theirs.is_made(kind, value) {
        return Past::Kept;
    }
    if foreign && theirs.is_search(kind, value) {
        return Past::Left;
    }
    match theirs.ran(kind, value) {
        ran if !ran.is_empty() => Past::Written(Part::text(ran::text(&ran))),
        _ => theirs.past_call(kind, value).map_or(Past::Kept, |text| Past::Written(Part::text(text))),
    }
}

/// Does this part, or one in it, not go as it is?
fn is_past(part: &Part, to: Format) -> bool {
    match part {
        Part::ToolResult(result) => result.parts.iter().any(|part| is_past(part, to)),
        part => !matches!(past_part(part, to), Past::Kept),
    }
}

/// The turns without records of searches, and with code as text; a turn that was nothing else goes whole.
pub fn without_past(messages: &[Message], to: Format) -> Vec<Message> {
    let kept = |message: &Message| {
        let part = |part: &Part| match past_part(part, to) {
            Past::Kept => match part {
                Part::ToolResult(result) if is_past(part, to) => {
                    let inner = result.parts.iter().filter_map(|inner| match past_part(inner, to) {
                        Past::Kept => Some(inner.clone()),
                        Past::Left => None,
                        Past::Written(text) => Some(text),
                    });
                    Some(Part::ToolResult(ToolResult { parts: inner.collect(), ..result.clone() }))
                }
                part => Some(part.clone()),
            },
            Past::Left => None,
            Past::Written(text) => Some(text),
        };
        let parts: Vec<Part> = message.parts.iter().filter_map(part).collect();
        let gone = parts.is_empty() && !message.parts.is_empty();
        (!gone).then(|| Message { parts, ..bare(message) })
    };
    messages.iter().filter_map(kept).collect()
}

fn bare(message: &Message) -> Message {
    let Message { role, parts: _, name, extra } = message;
    Message { role: *role, parts: Vec::new(), name: name.clone(), extra: extra.clone() }
}

/// The chat format's way to ask for a search.
const OPTIONS: &str = "web_search_options";
/// A tool that makes pictures.
const PICTURES: &str = "image_generation";

#[cfg(test)]
#[path = "hosted_tests.rs"]
mod tests;
