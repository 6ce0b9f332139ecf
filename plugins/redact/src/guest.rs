//! The plugin as the gateway sees it: facts in, verdicts out. All decisions are made elsewhere.

use portcullis_plugin::prelude::*;

use crate::{
    answer::{self, Answer, Piece},
    detect::{Hint, Kind},
    request::{self, Role, Text, mask},
    settings::{Mode, Settings, Unscanned},
    vault::{Vault, write_number},
};

/// One request's instance.
#[derive(Default)]
struct Redact {
    settings: Option<Settings>,
    vault: Vault,
    answer: Answer,
}

portcullis_plugin::plugin!(Redact: request, event, response);

impl Plugin for Redact {
    fn describe() -> Result<Description, String> {
        let settings = Settings::parse(&config::get())?;
        Ok(Description::new("redact", env!("CARGO_PKG_VERSION"))
            .needs([Need::Texts, Need::AnswerTexts])
            .window(settings.window() as u32))
    }
}

impl OnRequest for Redact {
    fn on_request(&mut self, request: Request) -> RequestVerdict {
        let settings = self.settings();
        if let Some(first) = request.unread.first() {
            if settings.unscanned == Unscanned::Deny {
                let what =
                    ["this request holds something that cannot be scanned for personal data (", &first.kind, ")"];
                return reject(400, what.concat());
            }
            request.unread.iter().take(NOTED).for_each(|u| unscanned(&u.kind, &u.path));
        }
        let texts: Vec<Text> = request.texts.iter().map(text).collect();
        texts.iter().zip(&request.texts).filter(|(t, _)| t.role == Role::Signed).take(NOTED).for_each(|(_, t)| {
            unscanned("signed reasoning", &t.path);
        });
        match mask(&settings, &mut self.vault, &texts) {
            request::Verdict::Clean => {
                // Nothing was hidden: there is nothing to restore.
                if settings.mode == Mode::Restore {
                    context::done();
                }
                RequestVerdict::Continue
            }
            request::Verdict::Change(edits) => {
                self.note();
                RequestVerdict::Change(edits.into_iter().map(Edit::Text).collect())
            }
            request::Verdict::Denied(kind) => {
                let what = ["this request holds ", kind.title(), ", which may not be sent; take it out and try again"];
                reject(400, what.concat())
            }
            request::Verdict::TooMany => {
                reject(413, "this request holds more personal data than can be masked; split it")
            }
        }
    }
}

impl OnEvent for Redact {
    fn on_event(&mut self, event: Event) -> EventVerdict {
        let piece = match event.kind {
            EventKind::Text | EventKind::Reasoning | EventKind::Refusal => Piece::Text,
            EventKind::ToolArguments => Piece::Arguments,
            EventKind::Start => {
                self.answer.clear();
                return EventVerdict::Continue;
            }
            _ => return EventVerdict::Continue,
        };
        let (Some(text), settings) = (event.text, self.settings()) else { return EventVerdict::Continue };
        let at = (event.choice.unwrap_or(0), event.part.unwrap_or(0));
        match self.answer.piece(&settings, &mut self.vault, at, piece, &text) {
            Ok(None) => EventVerdict::Continue,
            Ok(Some(text)) => EventVerdict::Text(text),
            Err(_) => EventVerdict::Stop("more personal data than can be masked".to_owned()),
        }
    }
}

impl OnResponse for Redact {
    fn on_response(&mut self, answer: portcullis_plugin::Answer) -> ResponseVerdict {
        let settings = self.settings();
        let mut edits = Vec::new();
        let mut hint = Hint::None;
        for text in answer.texts {
            match answer::whole(&settings, &mut self.vault, hint, &text.text) {
                Ok(None) => {}
                Ok(Some(new)) => edits.push(AnswerEdit::Text((text.id, new))),
                Err(_) => return reject(502, "the answer holds more personal data than can be masked"),
            }
            hint = if matches!(text.kind, TextKind::Key) { Hint::of(&text.text) } else { Hint::None };
        }
        if edits.is_empty() { ResponseVerdict::Continue } else { ResponseVerdict::Change(edits) }
    }
}

impl Redact {
    /// The configuration was checked when the file was loaded: an error here cannot be.
    fn settings(&mut self) -> Settings {
        *self.settings.get_or_insert_with(|| Settings::parse(&config::get()).unwrap_or_default())
    }

    /// How many of what, for the decision trace. Never a value.
    fn note(&self) {
        let mut line = String::from("masked:");
        for kind in Kind::ALL {
            let count = self.vault.count(kind);
            if count > 0 {
                line.push(' ');
                line.push_str(kind.name());
                line.push_str(" x");
                write_number(count as u32, &mut line);
            }
        }
        context::note(&line);
    }
}

fn text(text: &portcullis_plugin::Text) -> Text<'_> {
    let role = match &text.kind {
        TextKind::Key => Role::Name,
        TextKind::Other(word) if word == "signed_reasoning" => Role::Signed,
        _ => Role::Plain,
    };
    Text { id: text.id, text: &text.text, role }
}

fn unscanned(kind: &str, path: &str) {
    context::note(&["unscanned: ", kind, " at ", path].concat());
}

/// The trace has room for 64 lines a stage.
const NOTED: usize = 20;
