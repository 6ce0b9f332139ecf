//! Events ⇄ whole answers: `fold(decode_stream(s)) == decode_response(r)`, and `unfold` for answers that were made whole
//! (a cache, a script, a buffering stage) but asked for as a stream.

use serde_json::Value;

use super::{Choice, Delta, Event, Extra, Part, PartStart, Reasoning, Response, Start, Text, ToolCall};

/// Builds an answer from events as they come.
#[derive(Debug, Default)]
pub struct Fold {
    response: Response,
    ended: bool,
}

impl Fold {
    pub fn push(&mut self, event: Event) {
        match event {
            Event::Start(Start { id, model, created, service_tier, extra }) => {
                self.response.id = id;
                self.response.model = model;
                self.response.created = created;
                self.response.service_tier = service_tier;
                merge(&mut self.response.extra, extra);
            }
            Event::PartStart { choice, index, part } => {
                let parts = &mut self.choice(choice).parts;
                while parts.len() < index as usize {
                    parts.push(Part::text(""));
                }
                let part = begin(part);
                if parts.len() == index as usize { parts.push(part) } else { parts[index as usize] = part }
            }
            Event::Delta { choice, index, delta } => {
                if let Some(part) = self.choice(choice).parts.get_mut(index as usize) {
                    extend(part, delta);
                }
            }
            Event::PartEnd { .. } | Event::Ping => {}
            Event::ChoiceExtra { choice, logprobs, extra } => {
                let choice = self.choice(choice);
                if let Some(more) = logprobs {
                    append_logprobs(&mut choice.logprobs, more);
                }
                merge(&mut choice.extra, extra);
            }
            Event::Finish { choice, finish } => self.choice(choice).finish = Some(finish),
            Event::Usage(usage) => match &mut self.response.usage {
                Some(mine) => mine.merge(&usage),
                none => *none = Some(usage),
            },
            Event::Extra(extra) => merge(&mut self.response.extra, extra),
            Event::End => self.ended = true,
        }
    }

    /// Was the terminal seen?
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// What is known so far.
    pub fn so_far(&self) -> &Response {
        &self.response
    }

    pub fn finish(mut self) -> Response {
        self.response.choices.sort_by_key(|c| c.index);
        self.response
    }

    fn choice(&mut self, index: u32) -> &mut Choice {
        let at = match self.response.choices.iter().position(|c| c.index == index) {
            Some(at) => at,
            None => {
                self.response.choices.push(Choice { index, ..Choice::default() });
                self.response.choices.len() - 1
            }
        };
        &mut self.response.choices[at]
    }
}

/// A whole answer as the events that would have made it.
pub fn unfold(response: &Response) -> Vec<Event> {
    let Response { id, model, created, choices, usage, service_tier, extra } = response;
    let mut out = vec![Event::Start(Start {
        id: id.clone(),
        model: model.clone(),
        created: *created,
        service_tier: service_tier.clone(),
        extra: extra.clone(),
    })];
    for Choice { index: choice, parts, finish, logprobs, extra } in choices {
        let choice = *choice;
        for (index, part) in parts.iter().enumerate() {
            unfold_part(choice, index as u32, part, &mut out);
        }
        if logprobs.is_some() || !extra.is_empty() {
            out.push(Event::ChoiceExtra { choice, logprobs: logprobs.clone(), extra: extra.clone() });
        }
        if let Some(finish) = finish {
            out.push(Event::Finish { choice, finish: finish.clone() });
        }
    }
    if let Some(usage) = usage {
        out.push(Event::Usage(usage.clone()));
    }
    out.push(Event::End);
    out
}

fn unfold_part(choice: u32, index: u32, part: &Part, out: &mut Vec<Event>) {
    let mut deltas = Vec::new();
    let start = match part {
        Part::Text(Text { text, citations, cache, signature, extra }) => {
            if cache.is_some() {
                out.push(Event::PartStart { choice, index, part: PartStart::Whole(part.clone()) });
                out.push(Event::PartEnd { choice, index });
                return;
            }
            if !text.is_empty() {
                deltas.push(Delta::Text(text.clone()));
            }
            deltas.extend(citations.iter().cloned().map(Delta::Citation));
            deltas.extend(signature.clone().map(Delta::Signature));
            PartStart::Text { extra: extra.clone() }
        }
        Part::Refusal(text) => {
            deltas.push(Delta::Text(text.clone()));
            PartStart::Refusal
        }
        Part::Reasoning(Reasoning { text, signature, sealed, extra }) => {
            if !text.is_empty() {
                deltas.push(Delta::Text(text.clone()));
            }
            deltas.extend(signature.clone().map(Delta::Signature));
            deltas.extend(sealed.clone().map(Delta::Sealed));
            PartStart::Reasoning { extra: extra.clone() }
        }
        Part::ToolCall(ToolCall { id, name, kind, arguments, signature, cache: _, extra }) => {
            if !arguments.is_empty() {
                deltas.push(Delta::Text(arguments.clone()));
            }
            PartStart::ToolCall {
                id: id.clone(),
                name: name.clone(),
                kind: *kind,
                signature: signature.clone(),
                extra: extra.clone(),
            }
        }
        Part::Media(_) | Part::ToolResult(_) | Part::Native { .. } => PartStart::Whole(part.clone()),
    };
    out.push(Event::PartStart { choice, index, part: start });
    out.extend(deltas.into_iter().map(|delta| Event::Delta { choice, index, delta }));
    out.push(Event::PartEnd { choice, index });
}

fn begin(start: PartStart) -> Part {
    match start {
        PartStart::Text { extra } => Part::Text(Text { extra, ..Text::default() }),
        PartStart::Refusal => Part::Refusal(String::new()),
        PartStart::Reasoning { extra } => Part::Reasoning(Reasoning { extra, ..Reasoning::default() }),
        PartStart::ToolCall { id, name, kind, signature, extra } => {
            Part::ToolCall(ToolCall { id, name, kind, arguments: String::new(), signature, cache: None, extra })
        }
        PartStart::Whole(part) => part,
    }
}

fn extend(part: &mut Part, delta: Delta) {
    match (part, delta) {
        (Part::Text(t), Delta::Text(s)) => t.text.push_str(&s),
        (Part::Text(t), Delta::Citation(c)) => t.citations.push(c),
        (Part::Text(t), Delta::Signature(s)) => t.signature = Some(s),
        (Part::Refusal(t), Delta::Text(s)) => t.push_str(&s),
        (Part::Reasoning(r), Delta::Text(s)) => r.text.push_str(&s),
        (Part::Reasoning(r), Delta::Signature(s)) => match &mut r.signature {
            Some(mine) if mine.origin == s.origin => mine.data.push_str(&s.data),
            mine => *mine = Some(s),
        },
        (Part::Reasoning(r), Delta::Sealed(s)) => r.sealed = Some(s),
        (Part::ToolCall(c), Delta::Text(s)) => c.arguments.push_str(&s),
        (Part::ToolCall(c), Delta::Signature(s)) => c.signature = Some(s),
        _ => {}
    }
}

/// Logprobs arrive in pieces of `{"content": [...], "refusal": [...]}`: the lists grow.
fn append_logprobs(mine: &mut Option<Value>, more: Value) {
    let Some(Value::Object(mine)) = mine else {
        *mine = Some(more);
        return;
    };
    let Value::Object(more) = more else { return };
    for (key, value) in more {
        match (mine.get_mut(&key), value) {
            (Some(Value::Array(list)), Value::Array(items)) => list.extend(items),
            (Some(slot), value) if slot.is_null() => *slot = value,
            (Some(_), _) => {}
            (None, value) => {
                mine.insert(key, value);
            }
        }
    }
}

fn merge(mine: &mut Extra, theirs: Extra) {
    let Some((format, fields)) = theirs.any() else { return };
    for (key, value) in fields {
        mine.insert(format, key, value.clone());
    }
}
