//! The guest of version 1.0.0 of the contract: it has every phase, uses every import and makes every kind of change. Its
//! component was built once and is a test for ever, so this file is never changed either; it says what is in there. What
//! later versions add is for another guest.
//!
//! A word in the stage's config picks what is not the plain way: `request`, `attempt`, `event`, `response` and `error` say
//! which verdict that phase gives, `stream` how answers come, `url` where a call goes.

use portcullis_plugin::prelude::*;

#[derive(Default)]
struct First {
    events: u32,
}

plugin!(First: request, route, attempt, event, response, error, log);

impl Plugin for First {
    fn describe() -> Result<Description, String> {
        let needs = [
            Need::Headers,
            Need::LastUserText,
            Need::Parameters,
            Need::Metadata,
            Need::Messages,
            Need::Tools,
            Need::Texts,
            Need::Answer,
            Need::AnswerTexts,
        ];
        let description = Description::new("first", "1.0.0").needs(needs).reusable();
        Ok(match word("stream").as_str() {
            "whole" => description.stream(StreamMode::Whole),
            "observe" => description.stream(StreamMode::Observe),
            "window" => description.window(8),
            "refuse" => return Err("as told".to_owned()),
            _ => description.stream(StreamMode::Event),
        })
    }
}

impl OnRequest for First {
    fn on_request(&mut self, request: Request) -> RequestVerdict {
        imports();
        let turns: Vec<String> = request.messages.iter().map(turn).collect();
        let text = request.texts.iter().find(|text| text.text.contains("secret"));
        let header = request.headers.iter().find(|(name, _)| name == "x-first").map(|(_, value)| value.as_str());
        context::note(&format!(
            "request {} {} {} streamed={} tokens>0={} tools={} media={} header={header:?} last={:?} t={:?} p={:?} max={:?} \
             metadata={:?} turns={turns:?} tool={:?} kind={:?} role={:?} unread={:?}",
            request.model,
            request.operation,
            request.format,
            request.streamed,
            request.input_tokens > 0,
            request.has_tools,
            request.has_media,
            request.last_user_text,
            request.temperature,
            request.top_p,
            request.max_tokens,
            request.metadata,
            request
                .tools
                .iter()
                .map(|tool| (&tool.name, &tool.description, tool.parameters.is_some()))
                .collect::<Vec<_>>(),
            text.map(|text| &text.kind),
            text.and_then(|text| text.role.as_ref()),
            request.unread.iter().map(|unread| unread.kind.as_str()).collect::<Vec<_>>(),
        ));
        match word("request").as_str() {
            "respond" => RequestVerdict::Respond(Reply {
                model: Some("first".to_owned()),
                parts: vec![text_part("an answer of its own")],
                finish_reason: Some(FinishReason::Stop),
                usage: Some(Usage {
                    input_tokens: Some(1),
                    output_tokens: Some(2),
                    cache_read_tokens: None,
                    cache_write_tokens: None,
                    reasoning_tokens: None,
                }),
            }),
            "reject" => reject(451, "not this request"),
            "other" => RequestVerdict::Other("of the future".to_owned()),
            "other-edit" => RequestVerdict::Change(vec![Edit::Other("of the future".to_owned())]),
            "messages" => {
                let mut messages = request.messages;
                messages.push(Message {
                    origin: None,
                    role: Role::Assistant,
                    name: None,
                    parts: vec![text_part("a turn more")],
                });
                messages.push(Message { origin: None, role: Role::User, name: None, parts: vec![text_part("go on")] });
                RequestVerdict::Change(vec![Edit::Messages(messages)])
            }
            "model" => RequestVerdict::Change(vec![Edit::Model("mock/changed".to_owned())]),
            _ => {
                let mut edits = vec![
                    Edit::Temperature(Some(0.5)),
                    Edit::TopP(Some(0.25)),
                    Edit::MaxTokens(Some(77)),
                    Edit::System(Some("be brief".to_owned())),
                    Edit::KeepTools(vec!["keep".to_owned()]),
                    Edit::Metadata(("first".to_owned(), Some("was here".to_owned()))),
                ];
                edits.extend(text.map(|text| Edit::Text((text.id, text.text.replace("secret", "[hidden]")))));
                RequestVerdict::Change(edits)
            }
        }
    }
}

fn turn(message: &Message) -> String {
    let parts: Vec<String> = message.parts.iter().map(|part| format!("{:?}", part.kind)).collect();
    format!("{:?}:{}", message.role, parts.join("+"))
}

/// One call of each function that a guest may import.
fn imports() {
    let caller = context::current();
    let named = !caller.id.is_empty() && caller.now > 0;
    let who = (caller.team, caller.user, caller.roles, caller.tags);
    context::note(&format!("caller {named} {} {who:?} may={}", caller.attempt, context::may_use("mock")));
    let set = context::set_var("first", "{\"a\":1}");
    context::note(&format!("var {set:?} {:?} {:?}", context::get_var("first"), context::get_var("none")));
    context::note(&format!("facts {:?} {:?}", facts::get("phase"), facts::get("of the future")));
    context::note(&format!("config {} {:?}", config::get().starts_with('{'), config::value("none")));
    for level in [logging::Level::Debug, logging::Level::Info, logging::Level::Warn, logging::Level::Error] {
        logging::log(&level, "the first guest says a line");
    }
    logging::log(&logging::Level::Other("whisper".to_owned()), "and one more");
    let kept = kv::set("key", "value", Some(60));
    let (got, sum) = (kv::get("key"), kv::increment("count", 2, None));
    kv::remove("key");
    context::note(&format!("kv {kept:?} {got:?} {sum:?} {:?}", kv::get("key")));
    metrics::record("first_things", 1.0);
    context::note(&format!("clock {}", clock::now() > 0 && clock::monotonic() <= clock::monotonic()));
    if let Some(url) = config::value("url") {
        let call = http::Call {
            method: "POST".to_owned(),
            url,
            headers: vec![("x-first".to_owned(), "1".to_owned())],
            body: b"ask".to_vec(),
            timeout_ms: Some(5_000),
        };
        context::note(&match http::send(&call) {
            Ok(answer) => format!("http {} {}", answer.status, String::from_utf8_lossy(&answer.body)),
            Err(http::Failed::Refused(_)) => "http refused".to_owned(),
            Err(http::Failed::Timeout) => "http timeout".to_owned(),
            Err(http::Failed::TooLarge) => "http too large".to_owned(),
            Err(http::Failed::Unreachable(_)) => "http unreachable".to_owned(),
            Err(http::Failed::Other(what)) => format!("http {what}"),
        });
    }
}

impl OnRoute for First {
    fn on_route(&mut self, _request: Request, targets: Vec<Target>) -> RouteVerdict {
        let seen: Vec<String> = targets
            .iter()
            .map(|t| {
                let figures = (t.latency_ms.is_some(), t.in_flight, t.price_input.is_some(), t.price_output.is_some());
                let quota = (t.quota_left > 0, t.quota_resets_in.is_some());
                let more = (t.context_window.is_some(), t.capabilities.len());
                format!("{} = {}/{} {} {figures:?} {quota:?} {more:?}", t.name, t.provider, t.model, t.healthy)
            })
            .collect();
        context::note(&format!("route {}", seen.join("; ")));
        match word("route").as_str() {
            "reject" => reject(451, "no such way"),
            "other" => RouteVerdict::Other("of the future".to_owned()),
            "stay" => RouteVerdict::Continue,
            _ => RouteVerdict::Order(targets.into_iter().rev().map(|target| target.name).collect()),
        }
    }
}

impl OnAttempt for First {
    fn on_attempt(&mut self, target: Target, _request: Request) -> AttemptVerdict {
        context::note(&format!("attempt {} {}", target.name, context::current().attempt));
        match word("attempt").as_str() {
            "skip" if context::current().attempt == 1 => skip(),
            "reject" => reject(451, "not to this one"),
            "other" => AttemptVerdict::Other("of the future".to_owned()),
            _ => AttemptVerdict::Change(vec![Edit::Header(("x-by".to_owned(), Some("first".to_owned())))]),
        }
    }
}

impl OnEvent for First {
    fn on_event(&mut self, event: Event) -> EventVerdict {
        self.events += 1;
        let fields = (event.choice.is_some(), event.part, event.finish_reason.is_some(), event.usage.is_some());
        if self.events <= 3 || event.finish_reason.is_some() {
            context::note(&format!("event {:?} {fields:?} {:?}", event.kind, event.attempt));
        }
        let EventKind::Text = event.kind else { return EventVerdict::Continue };
        let text = event.text.unwrap_or_default();
        match word("event").as_str() {
            "drop" => EventVerdict::Drop,
            "stop" => stop("enough"),
            "reject" => reject(451, "not this answer"),
            "other" => EventVerdict::Other("of the future".to_owned()),
            "replace" => EventVerdict::Replace(vec![
                NewEvent::Text("<".to_owned()),
                NewEvent::Same,
                NewEvent::Text(">".to_owned()),
            ]),
            _ => EventVerdict::Text(text.to_uppercase()),
        }
    }
}

impl OnResponse for First {
    fn on_response(&mut self, answer: Answer) -> ResponseVerdict {
        let choices: Vec<_> = answer.choices.iter().map(|c| (c.index, &c.finish_reason, c.parts.len())).collect();
        context::note(&format!(
            "response {} {} usage={:?} choices={choices:?} texts={} unread={}",
            answer.model,
            answer.target,
            answer.usage.output_tokens.is_some(),
            answer.texts.len(),
            answer.unread.len(),
        ));
        match word("response").as_str() {
            "next" => next("another one"),
            "reject" => reject(451, "not this answer"),
            "other" => ResponseVerdict::Other("of the future".to_owned()),
            "parts" => ResponseVerdict::Change(vec![
                AnswerEdit::Parts((0, vec![text_part("all new")])),
                AnswerEdit::FinishReason((0, FinishReason::Length)),
            ]),
            _ => {
                let upper = |text: &portcullis_plugin::Text| AnswerEdit::Text((text.id, text.text.to_uppercase()));
                ResponseVerdict::Change(answer.texts.iter().map(upper).collect())
            }
        }
    }
}

impl OnError for First {
    fn on_error(&mut self, failure: Failure) -> ErrorVerdict {
        context::note(&format!("error {} {} {} {}", failure.status, failure.code, failure.side, failure.retryable));
        match word("error").as_str() {
            "respond" => respond("never mind"),
            "other" => ErrorVerdict::Other("of the future".to_owned()),
            "stay" => ErrorVerdict::Continue,
            _ => ErrorVerdict::Change(FailureEdit {
                status: Some(418),
                message: Some(format!("{} (first)", failure.message)),
            }),
        }
    }
}

impl OnLog for First {
    fn on_log(&mut self, summary: Summary) -> Vec<(String, String)> {
        let whole = !summary.id.is_empty() && summary.duration_ms >= summary.upstream_ms;
        let seen = format!("{} {} {} {} {whole}", summary.operation, summary.format, summary.model, summary.status);
        vec![("first.saw".to_owned(), seen), ("first.events".to_owned(), self.events.to_string())]
    }
}

fn word(name: &str) -> String {
    config::value(name).unwrap_or_default()
}
