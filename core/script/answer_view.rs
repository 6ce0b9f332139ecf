//! `response`, `event`, `error` and `record`: views of what comes back.

use std::sync::Arc;

use rhai::{Array, Dynamic, Map};

use super::{
    convert,
    desk::{Desk, Fail, fail},
    part_view::{Home, kind, parts, set_text},
    reference::{Registrar, shared},
    request_view::string,
    verdict::{self, finish_reason},
};
use crate::{
    account::Record,
    clock,
    error::{Error, Side},
    model::{Choice, Delta, Event, Finish, Part, PartStart, Reasoning, Usage},
    pipeline::parts::New,
};

#[derive(Clone)]
pub struct ResponseView(pub Arc<Desk>);

/// One of several answers (`n` > 1).
#[derive(Clone)]
pub struct ChoiceView(Arc<Desk>, usize);

#[derive(Clone)]
pub struct EventView(pub Arc<Desk>);

#[derive(Clone)]
pub struct ErrorView(pub Arc<Desk>);

#[derive(Clone)]
pub struct RecordView(pub Arc<Desk>);

pub fn register(r: &mut Registrar<'_>) {
    r.kind::<ResponseView>(
        "Response",
        "The whole answer, in `fn response`. With several choices the fields are the first one's.",
    );
    answer(r, |v: &ResponseView| (v.0.clone(), 0));
    r.get::<ResponseView>(
        "choices",
        "all choices (`n` > 1), each with text, reasoning, tool_calls, finish_reason and parts",
        |v| {
            let count = v.0.response(|response| Ok(response.choices.len()))?;
            Ok((0..count).map(|at| Dynamic::from(ChoiceView(v.0.clone(), at))).collect::<Array>().into())
        },
    );
    r.get::<ResponseView>("usage", "a map of token counts and of what else is counted (output_images, input_audio_ms, web_searches, …); () for each that is unknown", |v| {
        v.0.response(|response| Ok(usage(response.usage.as_ref())))
    });
    r.get::<ResponseView>("model", "the model as the upstream names it", |v| {
        v.0.response(|r| Ok(r.model.as_str().into()))
    });
    r.get::<ResponseView>("target", "the target that answered", |v| {
        let target = v.0.with(|lent| lent.target.clone());
        Ok(target.map_or(Dynamic::UNIT, |t| shared(&t.name)))
    });
    r.get::<ResponseView>("latency_ms", "since the request came in", |v| {
        v.0.cx(|cx| Dynamic::from(clock::since(cx.started).as_millis() as i64))
    });
    r.engine.register_type_with_name::<ChoiceView>("Choice");
    answer(&mut Registrar::new(r.engine), |v: &ChoiceView| (v.0.clone(), v.1));
    event(r);
    error(r);
    record(r);
}

fn answer<V: rhai::Variant + Clone>(r: &mut Registrar<'_>, place: fn(&V) -> (Arc<Desk>, usize)) {
    let read = move |v: &V, f: fn(&Choice) -> Dynamic| -> Result<Dynamic, Fail> {
        let (desk, at) = place(v);
        desk.response(|response| Ok(response.choices.get(at).map_or(Dynamic::UNIT, f)))
    };
    let write = move |v: &V, f: &mut dyn FnMut(&mut Choice)| -> Result<(), Fail> {
        let (desk, at) = place(v);
        desk.response(|response| {
            let choice = response.choices.get_mut(at).ok_or_else(|| fail("the answer has no choice"))?;
            f(choice);
            Ok(())
        })
    };
    r.both::<V>(
        "text",
        "its text; setting it replaces the text and keeps other parts",
        move |v| read(v, |choice| choice.text().into()),
        move |v, value| {
            let mut text = Some(string("text", value)?);
            write(v, &mut |choice| set_text(&mut choice.parts, text.take().unwrap_or_default()))
        },
    );
    r.both::<V>(
        "reasoning",
        "the model's visible thinking; setting it drops its signature",
        move |v| read(v, |choice| reasoning(choice).into()),
        move |v, value| {
            let text = string("reasoning", value)?;
            write(v, &mut |choice| set_reasoning(choice, &text))
        },
    );
    r.get::<V>("tool_calls", "an array of parts with id, name and arguments (which can be set)", move |v| {
        let (desk, at) = place(v);
        let calls = desk.response(|response| {
            let parts =
                response.choices.get(at).map(|c| c.parts.iter().map(|p| kind(p) == "tool_call").collect::<Vec<_>>());
            Ok(parts.unwrap_or_default())
        })?;
        let all = parts(&desk, Home::Choice(at), calls.len()).into_array().unwrap_or_default();
        Ok(all.into_iter().zip(calls).filter(|(_, call)| *call).map(|(part, _)| part).collect::<Array>().into())
    });
    r.get::<V>("parts", "all pieces in order", move |v| {
        let (desk, at) = place(v);
        let count = desk.response(|response| Ok(response.choices.get(at).map_or(0, |c| c.parts.len())))?;
        Ok(parts(&desk, Home::Choice(at), count))
    });
    r.both::<V>(
        "finish_reason",
        "stop, length, tool_calls, content_filter, malformed or other; () when unknown",
        move |v| read(v, |choice| choice.finish.as_ref().map_or(Dynamic::UNIT, |f| f.reason.name().into())),
        move |v, value| {
            let reason = finish_reason(&string("finish_reason", value)?).map_err(fail)?;
            write(v, &mut |choice| choice.finish = Some(Finish::new(reason, reason.name())))
        },
    );
}

fn reasoning(choice: &Choice) -> String {
    let texts =
        choice.parts.iter().filter_map(|p| if let Part::Reasoning(r) = p { Some(r.text.as_str()) } else { None });
    texts.collect::<Vec<_>>().join("\n")
}

fn set_reasoning(choice: &mut Choice, text: &str) {
    let mut done = false;
    choice.parts.retain_mut(|part| match part {
        Part::Reasoning(_) if done => false,
        Part::Reasoning(r) => {
            *r = Reasoning { text: text.to_owned(), ..Reasoning::default() };
            done = true;
            true
        }
        _ => true,
    });
    if !done {
        choice.parts.insert(0, Part::Reasoning(Reasoning { text: text.to_owned(), ..Reasoning::default() }));
    }
}

fn event(r: &mut Registrar<'_>) {
    r.kind::<EventView>("Event", "One step of a streamed answer, in `fn event`.");
    r.get::<EventView>(
        "kind",
        "start, part_start, text, reasoning, refusal, tool_call (a call begins), tool_arguments, part (a whole piece), part_end, signature, citation, finish, usage, extra, ping or end",
        |v| Ok(v.0.with(|lent| lent.event_kind.into())),
    );
    r.get::<EventView>("part", "the number of its part, from 0; () for events of the whole answer", |v| {
        v.read(|event| match event {
            Event::PartStart { index, .. } | Event::Delta { index, .. } | Event::PartEnd { index, .. } => {
                i64::from(*index).into()
            }
            _ => Dynamic::UNIT,
        })
    });
    r.get::<EventView>("choice", "the number of its choice; ()", |v| {
        v.read(|event| match event {
            Event::PartStart { choice, .. }
            | Event::Delta { choice, .. }
            | Event::PartEnd { choice, .. }
            | Event::ChoiceExtra { choice, .. }
            | Event::Finish { choice, .. } => i64::from(*choice).into(),
            _ => Dynamic::UNIT,
        })
    });
    r.both::<EventView>(
        "text",
        "the piece of text, reasoning, refusal or tool arguments; () for other kinds",
        |v| {
            v.read(|event| match event {
                Event::Delta { delta: Delta::Text(text), .. } => text.as_str().into(),
                _ => Dynamic::UNIT,
            })
        },
        |v, value| {
            let new = string("text", value)?;
            v.0.with(|lent| match &mut lent.event {
                Some(Event::Delta { delta: Delta::Text(text), .. }) => {
                    *text = new;
                    Ok(())
                }
                _ => Err(fail(format!("an event of kind {} has no text", lent.event_kind))),
            })
        },
    );
    r.get::<EventView>(
        "so_far",
        "the text of its part up to here, this piece included: tool arguments as they grow, a reasoning as it goes on; () for kinds without text, and beyond 64 KiB",
        |v| Ok(v.0.with(|lent| lent.so_far.clone().map_or(Dynamic::UNIT, Dynamic::from))),
    );
    r.get::<EventView>("tool_call", "for kind tool_call: a map with id and name; ()", |v| {
        v.read(|event| match event {
            Event::PartStart { part: PartStart::ToolCall { id, name, .. }, .. } => {
                Map::from([("id".into(), id.as_str().into()), ("name".into(), name.as_str().into())]).into()
            }
            _ => Dynamic::UNIT,
        })
    });
    r.get::<EventView>("finish_reason", "for kind finish; ()", |v| {
        v.read(|event| match event {
            Event::Finish { finish, .. } => finish.reason.name().into(),
            _ => Dynamic::UNIT,
        })
    });
    r.get::<EventView>("usage", "for kind usage: a map of token counts; ()", |v| {
        v.read(|event| if let Event::Usage(u) = event { usage(Some(u)) } else { Dynamic::UNIT })
    });
    r.get::<EventView>("attempt", "for kind start: the number of the attempt that begins here; ()", |v| {
        let starts = v.0.with(|lent| lent.attempt_starts);
        if starts { v.0.cx(|cx| i64::from(cx.attempt).into()) } else { Ok(Dynamic::UNIT) }
    });
}

impl EventView {
    fn read(&self, f: impl FnOnce(&Event) -> Dynamic) -> Result<Dynamic, Fail> {
        self.0.with(|lent| lent.event.as_ref().map(f).ok_or_else(|| fail("there is no event in this phase")))
    }
}

/// A script's map as a new event. `None`: it is no map.
pub fn new_event(item: &Dynamic, kind: &str) -> Option<Result<New, String>> {
    let map = item.as_map_ref().ok()?;
    let text = |key: &str| map.get(key).and_then(convert::text);
    let new_kind = text("kind").unwrap_or_else(|| kind.to_owned());
    if new_kind != "tool_call" {
        return Some(Ok(New::Text(new_kind, text("text"))));
    }
    Some(verdict::tool_call(item).and_then(|part| match part {
        Part::ToolCall(call) => Ok(New::Call { id: call.id, name: call.name, arguments: call.arguments }),
        _ => Err("an event of that kind cannot be made here".into()),
    }))
}

fn error(r: &mut Registrar<'_>) {
    r.kind::<ErrorView>("Error", "What went wrong, in `fn error`.");
    r.both::<ErrorView>(
        "status",
        "the HTTP status; 400 to 599",
        |v| v.read(|e| i64::from(e.status()).into()),
        |v, value| match value.as_int().ok().and_then(|n| u16::try_from(n).ok()) {
            Some(status @ 400..=599) => v.write(|e| e.status = Some(status)),
            _ => Err(fail("error.status must be 400 to 599")),
        },
    );
    r.both::<ErrorView>(
        "message",
        "what the caller reads",
        |v| v.read(|e| e.message.as_str().into()),
        |v, value| {
            let text = string("message", value)?;
            v.write(|e| {
                e.message = text;
                // The upstream's own words would be passed on in its place.
                if let Some(upstream) = &mut e.upstream {
                    upstream.body = None;
                }
            })
        },
    );
    r.get::<ErrorView>("code", "the gateway's code: rate_limited, upstream_timeout, …", |v| {
        v.read(|e| e.code().into())
    });
    r.get::<ErrorView>("side", "whose fault: client, gateway or upstream", |v| {
        v.read(|e| {
            match e.side() {
                Side::Client => "client",
                Side::Gateway => "gateway",
                Side::Upstream => "upstream",
            }
            .into()
        })
    });
    r.get::<ErrorView>("retryable", "could another try succeed?", |v| v.read(|e| e.retryable().into()));
}

impl ErrorView {
    fn read(&self, f: impl FnOnce(&Error) -> Dynamic) -> Result<Dynamic, Fail> {
        self.0.with(|lent| lent.error.as_ref().map(f).ok_or_else(|| fail("there is no error in this phase")))
    }

    fn write(&self, f: impl FnOnce(&mut Error)) -> Result<(), Fail> {
        self.0.with(|lent| lent.error.as_mut().map(f).ok_or_else(|| fail("there is no error in this phase")))
    }
}

fn record(r: &mut Registrar<'_>) {
    r.kind::<RecordView>("Record", "The facts of the finished request, in `fn log`. No prompt text.");
    let text = |t: &Option<Arc<str>>| t.as_ref().map_or(Dynamic::UNIT, shared);
    fact(r, "id", "the request's id", |x| shared(&x.id));
    fact(r, "key", "the virtual key's id", |x| shared(&x.key_id));
    fact(r, "team", "or ()", move |x| text(&x.team));
    fact(r, "operation", "chat, embeddings, …", |x| x.operation.name().into());
    fact(r, "format", "the caller's wire format", |x| x.format.name().into());
    fact(r, "model", "the name asked for", |x| x.model.as_str().into());
    fact(r, "target", "provider/model, or () when none was reached", move |x| text(&x.target));
    fact(r, "attempts", "how many", |x| i64::from(x.attempts).into());
    fact(r, "status", "of the answer; 499 when the caller left", |x| i64::from(x.status).into());
    fact(r, "error_code", "or ()", |x| x.error_code.as_deref().map_or(Dynamic::UNIT, convert::str));
    fact(r, "stream", "was it streamed?", |x| x.stream.into());
    fact(r, "finish_reason", "or ()", |x| x.finish_reason.map_or(Dynamic::UNIT, convert::str));
    fact(r, "usage", "a map of token counts", |x| usage(x.usage.as_ref()));
    fact(r, "cost_usd", "USD; () when it is not known", |x| {
        x.cost_nano_usd.map_or(Dynamic::UNIT, |nano| Dynamic::from(nano as f64 / 1e9))
    });
    fact(r, "duration_ms", "from first to last byte", |x| (x.duration.as_millis() as i64).into());
    fact(r, "first_event_ms", "or ()", |x| {
        x.first_event.map_or(Dynamic::UNIT, |d| Dynamic::from(d.as_millis() as i64))
    });
    fact(r, "upstream_ms", "time spent with upstreams", |x| (x.upstream_duration.as_millis() as i64).into());
    r.both::<RecordView>(
        "tags",
        "a map of strings: `record.tags.project = \"tides\"`",
        |v| v.read(|x| x.tags.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect::<Map>().into()),
        |v, value| {
            let map = value.as_map_ref().map_err(|_| fail("record.tags must be a map of strings"))?;
            let mut tags = Vec::with_capacity(map.len());
            for (key, value) in map.iter() {
                let value = convert::text(value).ok_or_else(|| fail("record.tags must be a map of strings"))?;
                if key.len() > MAX_TAG || value.len() > MAX_TAG {
                    return Err(fail(format!("a tag's name and value may have {MAX_TAG} bytes")));
                }
                tags.push((key.to_string(), value));
            }
            if tags.len() > MAX_TAGS {
                return Err(fail(format!("a record may have {MAX_TAGS} tags")));
            }
            v.0.with(|lent| {
                lent.record
                    .as_deref_mut()
                    .map(|x| x.tags = tags)
                    .ok_or_else(|| fail("there is no record in this phase"))
            })
        },
    );
}

fn fact(
    r: &mut Registrar<'_>,
    name: &'static str,
    text: &'static str,
    f: impl Fn(&Record) -> Dynamic + Send + Sync + 'static,
) {
    r.get::<RecordView>(name, text, move |v| v.read(&f));
}

impl RecordView {
    fn read(&self, f: impl FnOnce(&Record) -> Dynamic) -> Result<Dynamic, Fail> {
        self.0.with(|lent| lent.record.as_deref().map(f).ok_or_else(|| fail("there is no record in this phase")))
    }
}

fn usage(usage: Option<&Usage>) -> Dynamic {
    let mut map = Map::new();
    let mut put = |key: &str, value: Option<u64>| map.insert(key.into(), value.map_or(Dynamic::UNIT, convert::int));
    put("input_tokens", usage.and_then(|u| u.input_tokens));
    put("output_tokens", usage.and_then(|u| u.output_tokens));
    put("cache_read_tokens", usage.and_then(|u| u.cache_read_tokens));
    put("cache_write_tokens", usage.and_then(|u| u.cache_write_tokens));
    put("reasoning_tokens", usage.and_then(|u| u.reasoning_tokens));
    put("total_tokens", usage.and_then(Usage::total_tokens));
    put("input_audio_tokens", usage.and_then(|u| u.input_audio_tokens));
    put("output_audio_tokens", usage.and_then(|u| u.output_audio_tokens));
    for (key, count) in usage.map(Usage::units).unwrap_or_default().named() {
        put(key, count);
    }
    let tier = usage.and_then(|u| u.service_tier);
    map.insert("service_tier".into(), tier.map_or(Dynamic::UNIT, |tier| tier.name().into()));
    map.into()
}

const MAX_TAGS: usize = 64;
const MAX_TAG: usize = 256;
