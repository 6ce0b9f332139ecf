//! A guest that uses what guests may use and says what came of it: for tests of grants, of memory shared and not shared,
//! and of the phases of an answer, through a running gateway.
//!
//! `probe WORD …` anywhere in the last user text says what to do in the phase `request`. The stage's config says how it
//! sees streams (`stream`), what it refuses in an answer (`deny`), and whether it answers errors itself (`excuse`).

use portcullis_plugin::prelude::*;

#[derive(Default)]
struct Probe {
    /// Of the request that this instance serves.
    asked: String,
}

plugin!(Probe: request, response, error, log);

impl Plugin for Probe {
    fn describe() -> Result<Description, String> {
        let stream = match config::value("stream").as_deref() {
            Some("observe") => StreamMode::Observe,
            _ => StreamMode::Whole,
        };
        let needs = [Need::LastUserText, Need::Answer];
        Ok(Description::new("probe", env!("CARGO_PKG_VERSION")).needs(needs).stream(stream))
    }
}

impl OnRequest for Probe {
    fn on_request(&mut self, request: Request) -> RequestVerdict {
        let Some((_, asked)) = request.last_user_text.split_once("probe ") else { return RequestVerdict::Continue };
        self.asked = asked.to_owned();
        let mut words = asked.split_whitespace();
        match (words.next().unwrap_or_default(), words.next()) {
            ("get", Some(url)) => respond(get(url)),
            ("count", key) => respond(match kv::increment(key.unwrap_or("n"), 1, None) {
                Ok(count) => count.to_string(),
                Err(why) => why,
            }),
            ("keep", Some(key)) => {
                let before = kv::get(key);
                let kept = kv::set(key, "kept", Some(60)).and_then(|()| kv::get(key).ok_or_else(|| "lost".to_owned()));
                kv::remove(key);
                respond(format!("{before:?} {kept:?} {:?}", kv::get(key)))
            }
            ("vars", _) => {
                let before = context::get_var("from_script").unwrap_or_default();
                let set = context::set_var("from_plugin", "{\"a\": [1, \"two\"]}");
                context::note(&format!("vars: {before} {set:?}"));
                RequestVerdict::Continue
            }
            ("measure", _) => {
                metrics::record("probe_things", 2.5);
                logging::log(&logging::Level::Info, "the probe says a line");
                let (now, since) = (clock::now(), clock::monotonic());
                respond(format!("{}", now > 1_600_000_000_000 && clock::monotonic() >= since))
            }
            ("done", _) => {
                context::done();
                RequestVerdict::Continue
            }
            _ => RequestVerdict::Continue,
        }
    }
}

fn get(url: &str) -> String {
    let call = http::Call {
        method: "GET".to_owned(),
        url: url.to_owned(),
        headers: vec![("x-probe".to_owned(), "1".to_owned())],
        body: Vec::new(),
        timeout_ms: Some(2_000),
    };
    match http::send(&call) {
        Ok(answer) => format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)),
        Err(http::Failed::Refused(why)) => format!("refused: {why}"),
        Err(http::Failed::Timeout) => "timeout".to_owned(),
        Err(http::Failed::TooLarge) => "too large".to_owned(),
        Err(http::Failed::Unreachable(_)) => "unreachable".to_owned(),
        Err(http::Failed::Other(what)) => format!("other: {what}"),
    }
}

impl OnResponse for Probe {
    fn on_response(&mut self, answer: Answer) -> ResponseVerdict {
        let text: String = answer
            .choices
            .iter()
            .flat_map(|choice| &choice.parts)
            .filter_map(|part| part.text.as_deref())
            .collect();
        context::note(&format!("answer: {text}"));
        if config::value("deny").is_some_and(|word| text.contains(&word)) {
            return reject(451, "not this answer");
        }
        ResponseVerdict::Change(vec![AnswerEdit::Parts((0, vec![text_part(format!("{text} (seen)"))]))])
    }
}

impl OnError for Probe {
    fn on_error(&mut self, failure: Failure) -> ErrorVerdict {
        if config::value("excuse").is_some() {
            return respond(format!("sorry: {}", failure.code));
        }
        let message = format!("{} by {}: {}", failure.code, failure.side, failure.message);
        ErrorVerdict::Change(FailureEdit { status: Some(418), message: Some(message) })
    }
}

impl OnLog for Probe {
    fn on_log(&mut self, summary: Summary) -> Vec<(String, String)> {
        let tokens = summary.usage.output_tokens.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
        vec![
            ("probe.status".to_owned(), summary.status.to_string()),
            ("probe.tokens".to_owned(), tokens),
            ("probe.asked".to_owned(), self.asked.clone()),
        ]
    }
}
