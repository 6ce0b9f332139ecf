//! What a model says in a session, on its way past the stages: each answer is a stream of events to them, and what they make
//! of it is what the client gets, wherever the same words stand again. An answer that is refused is cancelled; the session goes
//! on. Sound has no text: where a stage must see all it is refused too, elsewhere it passes and the record says so. Sends
//! nothing itself.

use std::collections::VecDeque;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{
    CANCEL,
    passed::{Passed, unseen},
    said,
    spoken::{self, Call, Event, Place, Said},
};
use crate::{
    error::{Error, Kind},
    exchange::Exchange,
    model::{self, Delta, Extra, PartStart, Start, ToolKind, fold::unfold},
    pipeline::{Candidate, Chain, EndFlow, EventFlow, MAX_HELD, StreamNeed},
};

/// One session's answers.
pub struct Guard {
    target: Candidate,
    /// A stage sees answers whole: nothing of one goes out before its end.
    whole: bool,
    /// The stage that must see all that is answered.
    must: Option<String>,
    answers: Vec<Answer>,
    /// What stages left of former answers, for those who ask for them again.
    past: VecDeque<(Place, String)>,
    unscanned: bool,
}

struct Answer {
    id: String,
    chain: Chain,
    parts: Vec<Part>,
    held: Vec<Event>,
    bytes: usize,
    cut: Option<Cut>,
}

/// A stage ended it before its end.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    Refused,
    Stopped,
}

enum Ended {
    Refused(Error),
    Stopped,
}

struct Part {
    place: Place,
    /// As the model said it, as the stages left it, and how much of that was sent.
    raw: String,
    passed: String,
    sent: usize,
    open: bool,
    /// The stages let it begin.
    alive: bool,
    /// How its pieces are told.
    template: Option<Event>,
}

impl Guard {
    /// `None`: no stage looks at answers.
    pub fn of(chain: &Chain, target: Candidate) -> Option<Box<Guard>> {
        // A stage that was done with the session's start is not done with what is answered in it.
        let chain = chain.again();
        let need = chain.stream_need();
        let must = chain.guards_answers().map(str::to_owned);
        let whole = need == StreamNeed::Whole;
        let guard = Guard { target, whole, must, answers: Vec::new(), past: VecDeque::new(), unscanned: false };
        (need != StreamNeed::None).then(|| Box::new(guard))
    }

    pub async fn pass(&mut self, exchange: &mut Exchange, message: Message) -> Passed {
        let mut out = Passed::default();
        let event = match &message {
            Message::Text(text) => serde_json::from_str::<Event>(text).ok(),
            _ => None,
        };
        let Some(mut event) = event else {
            match &self.must {
                Some(stage) => out.tell(exchange, &unseen(stage, "a message that is no JSON")).await,
                None => out.client.push(message),
            }
            return out;
        };
        let said = spoken::said(&event);
        let at = match self.answer_of(&event) {
            Some(at) => at,
            None if said != Said::Other || spoken::answer(&event).is_some() => self.begin(exchange, &event).await,
            None => {
                self.apart(exchange, event, &mut out).await;
                return out;
            }
        };
        let over = said == Said::Over;
        if self.answers[at].cut.is_none()
            && let Err(ended) = self.hear(exchange, at, &mut event, &said).await
        {
            self.cut(exchange, at, ended, over, &mut out).await;
        }
        self.deliver(at, event, &said, &mut out);
        if over {
            self.retire(at);
        }
        out
    }

    fn answer_of(&self, event: &Event) -> Option<usize> {
        if let Some(id) = spoken::answer(event) {
            return self.answers.iter().position(|answer| answer.id == id);
        }
        let item = spoken::item(event)?;
        self.answers.iter().position(|answer| answer.parts.iter().any(|part| part.place.item == item))
    }

    async fn begin(&mut self, exchange: &mut Exchange, event: &Event) -> usize {
        if self.answers.len() >= MOST_AT_ONCE {
            self.retire(0);
        }
        let mut answer = self.fresh(exchange, spoken::answer(event).unwrap_or_default());
        let start = Start { id: answer.id.clone(), model: self.target.model.to_string(), ..Start::default() };
        // A stage that is parked tells with the first words.
        let _ = answer.tell(exchange, model::Event::Start(start)).await;
        self.answers.push(answer);
        self.answers.len() - 1
    }

    fn fresh(&self, exchange: &Exchange, id: &str) -> Answer {
        let mut chain = exchange.chain.again();
        chain.meet(self.target.clone());
        Answer { id: id.to_owned(), chain, parts: Vec::new(), held: Vec::new(), bytes: 0, cut: None }
    }

    /// Shows the stages what is new in an event.
    async fn hear(&mut self, exchange: &mut Exchange, at: usize, event: &mut Event, said: &Said) -> Result<(), Ended> {
        if *said == Said::Sound {
            if let Some(stage) = &self.must {
                return Err(Ended::Refused(unseen(stage, "sound")));
            }
            if !std::mem::replace(&mut self.unscanned, true) {
                exchange.cx.trace.note("realtime", "sound was answered, which no stage looked at");
            }
            return Ok(());
        }
        let answer = &mut self.answers[at];
        if let Said::Delta(place) = said {
            let text = event.get("delta").and_then(Value::as_str).unwrap_or_default().to_owned();
            let call = matches!(place.slot, spoken::Slot::Arguments).then(Call::default);
            answer.hear(exchange, place, call, &text).await?;
            if let Some(part) = answer.part(place)
                && part.template.is_none()
            {
                part.template = Some(event.clone());
            }
            return Ok(());
        }
        answer.catch_up(exchange, event).await?;
        if *said == Said::Over { answer.end(exchange, &self.target).await } else { Ok(()) }
    }

    /// What the client gets of an event.
    fn deliver(&mut self, at: usize, event: Event, said: &Said, out: &mut Passed) {
        let answer = &mut self.answers[at];
        if self.whole && answer.cut.is_none() && !matches!(said, Said::Begun | Said::Over) {
            answer.bytes += event.get("delta").and_then(Value::as_str).map_or(256, str::len);
            answer.held.push(event);
            return;
        }
        for event in std::mem::take(&mut answer.held) {
            let said = spoken::said(&event);
            answer.render(event, &said, out);
        }
        answer.render(event, said, out);
    }

    /// A stage wants no more of it.
    async fn cut(&mut self, exchange: &mut Exchange, at: usize, ended: Ended, over: bool, out: &mut Passed) {
        let answer = &mut self.answers[at];
        exchange.cx.trace.note("realtime", "an answer was ended by a stage");
        if !over {
            let cancel = match answer.id.as_str() {
                "" => CANCEL.to_owned(),
                id => json!({"type": "response.cancel", "response_id": id}).to_string(),
            };
            out.cancel = Some(Message::text(cancel));
        }
        match ended {
            Ended::Stopped => answer.cut = Some(Cut::Stopped),
            Ended::Refused(error) => {
                answer.cut = Some(Cut::Refused);
                answer.held.clear();
                answer.parts.iter_mut().for_each(|part| part.passed.truncate(part.sent));
                out.tell(exchange, &error).await;
            }
        }
        for part in &mut answer.parts {
            part.rest(out);
        }
    }

    /// Words of the model outside of an answer that is under way: a former one's as they were left then, others anew.
    async fn apart(&mut self, exchange: &mut Exchange, mut event: Event, out: &mut Passed) {
        let mut unknown = false;
        let past = &self.past;
        spoken::texts(&mut event, &mut |place, _, text| match past.iter().rev().find(|(p, _)| *p == place) {
            Some((_, left)) => text.clone_from(left),
            None => unknown |= !text.is_empty(),
        });
        if unknown {
            let mut answer = self.fresh(exchange, "");
            let mut result = answer.catch_up(exchange, &mut event).await;
            if result.is_ok() {
                result = answer.end(exchange, &self.target).await;
            }
            match result {
                Ok(()) | Err(Ended::Stopped) => answer.rewrite(&mut event),
                Err(Ended::Refused(error)) => return out.tell(exchange, &error).await,
            }
        }
        out.send(event);
    }

    fn retire(&mut self, at: usize) {
        let answer = self.answers.remove(at);
        self.past.extend(answer.parts.into_iter().map(|part| (part.place, part.passed)));
        let mut bytes: usize = self.past.iter().map(|(_, text)| text.len()).sum();
        while bytes > MOST_PAST || self.past.len() > MOST_PARTS {
            bytes -= self.past.pop_front().map_or(bytes, |(_, text)| text.len());
        }
    }
}

impl Answer {
    async fn tell(&mut self, exchange: &mut Exchange, event: model::Event) -> Result<(), Ended> {
        let (inner, mut out) = (&mut **exchange, Vec::new());
        let steps = inner.cx.trace.steps.len();
        let flow = match self.chain.admit(&mut inner.cx) {
            Ok(()) => self.chain.event(&mut inner.cx, event, &mut out).await,
            Err(error) => Err(error),
        };
        // A session is long, and its trace is not.
        if steps > said::MOST_STEPS {
            inner.cx.trace.steps.truncate(steps);
        }
        self.take(out);
        match flow {
            Ok(EventFlow::Continue) => Ok(()),
            Ok(EventFlow::Stop(_)) => Err(Ended::Stopped),
            Err(error) => Err(Ended::Refused(error)),
        }
    }

    /// What stages let through. Their part numbers are places in `parts`.
    fn take(&mut self, events: Vec<model::Event>) {
        for event in events {
            match event {
                model::Event::PartStart { index, .. } => {
                    if let Some(part) = self.parts.get_mut(index as usize) {
                        part.alive = true;
                    }
                }
                model::Event::Delta { index, delta: Delta::Text(text), .. } => {
                    if let Some(part) = self.parts.get_mut(index as usize) {
                        part.passed.push_str(&text);
                    }
                }
                _ => {}
            }
        }
    }

    fn part(&mut self, place: &Place) -> Option<&mut Part> {
        self.parts.iter_mut().rev().find(|part| part.place == *place)
    }

    async fn hear(
        &mut self,
        exchange: &mut Exchange,
        place: &Place,
        call: Option<Call>,
        text: &str,
    ) -> Result<(), Ended> {
        self.bytes += text.len();
        if self.bytes > MAX_HELD || self.parts.len() > MOST_PARTS {
            return Err(Ended::Refused(Error::new(Kind::Upstream, "the answer is larger than stages may look at")));
        }
        let at = self.parts.iter().rposition(|part| part.place == *place && part.open);
        let at = match at {
            Some(at) => at,
            None => self.open(exchange, place, call).await?,
        };
        if text.is_empty() {
            return Ok(());
        }
        self.parts[at].raw.push_str(text);
        let delta = Delta::Text(text.to_owned());
        self.tell(exchange, model::Event::Delta { choice: 0, index: at as u32, delta }).await
    }

    async fn open(&mut self, exchange: &mut Exchange, place: &Place, call: Option<Call>) -> Result<usize, Ended> {
        let at = self.parts.len();
        self.parts.push(Part {
            place: place.clone(),
            raw: String::new(),
            passed: String::new(),
            sent: 0,
            open: true,
            alive: false,
            template: None,
        });
        let part = match call {
            Some(Call { id, name }) => {
                PartStart::ToolCall { id, name, kind: ToolKind::Function, signature: None, extra: Extra::default() }
            }
            None => PartStart::Text { extra: Extra::default() },
        };
        self.tell(exchange, model::Event::PartStart { choice: 0, index: at as u32, part }).await?;
        Ok(at)
    }

    /// Whole texts: what was not heard in pieces is heard now.
    async fn catch_up(&mut self, exchange: &mut Exchange, event: &mut Event) -> Result<(), Ended> {
        let mut all = Vec::new();
        spoken::texts(event, &mut |place, call, text| all.push((place, call, text.clone())));
        let closes = spoken::closes(event);
        for (place, call, text) in all {
            let (raw, open) = self.part(&place).map_or((None, false), |part| (Some(part.raw.as_str()), part.open));
            match raw {
                // Said already, or not yet.
                Some(raw) if raw == text || (!closes && raw.starts_with(&text)) => {}
                Some(raw) if open && text.starts_with(raw) => {
                    let rest = text[raw.len()..].to_owned();
                    self.hear(exchange, &place, call, &rest).await?;
                }
                // It takes the place of what was said in pieces.
                _ => {
                    if open {
                        self.close(exchange, &place).await?;
                    }
                    self.hear(exchange, &place, call, &text).await?;
                }
            }
            if closes {
                self.close(exchange, &place).await?;
            }
        }
        Ok(())
    }

    async fn close(&mut self, exchange: &mut Exchange, place: &Place) -> Result<(), Ended> {
        let Some(at) = self.parts.iter().rposition(|part| part.place == *place && part.open) else { return Ok(()) };
        self.parts[at].open = false;
        self.tell(exchange, model::Event::PartEnd { choice: 0, index: at as u32 }).await
    }

    async fn end(&mut self, exchange: &mut Exchange, target: &Candidate) -> Result<(), Ended> {
        let (inner, mut out) = (&mut **exchange, Vec::new());
        let flow = self.chain.end(&mut inner.cx, &mut out).await;
        self.take(out);
        match flow {
            Ok(EndFlow::Done) => Ok(()),
            Err(error) => Err(Ended::Refused(error)),
            // There is no other target in a session.
            Ok(EndFlow::Next(_)) => match self.chain.unmet(&mut inner.cx, target).await {
                Ok(response) => {
                    self.take(response.as_ref().map(unfold).unwrap_or_default());
                    Ok(())
                }
                Err(error) => Err(Ended::Refused(error)),
            },
        }
    }

    /// The client's event: a piece with what is free of it, a whole text as it was left.
    fn render(&mut self, mut event: Event, said: &Said, out: &mut Passed) {
        match said {
            Said::Sound if self.cut.is_some() => {}
            Said::Delta(place) => {
                if let Some(part) = self.part(place) {
                    part.rest(out);
                }
            }
            Said::Begun | Said::Sound => out.send(event),
            Said::Other | Said::Over => {
                let gone = |part: &Part| part.place.slot == spoken::Slot::Arguments && !part.alive;
                let dead = |item: &str| self.parts.iter().any(|part| part.place.item == item && gone(part));
                if *said == Said::Other && spoken::item(&event).is_some_and(dead) {
                    return;
                }
                spoken::retain(&mut event, &|item| self.cut != Some(Cut::Refused) && !dead(item));
                self.rewrite(&mut event);
                if spoken::closes(&event) {
                    let mut here = Vec::new();
                    spoken::texts(&mut event, &mut |place, _, _| here.push(place));
                    self.parts.iter_mut().filter(|part| here.contains(&part.place)).for_each(|part| part.rest(out));
                }
                if *said == Said::Over
                    && self.cut.is_some()
                    && let Some(response) = event.get_mut("response").and_then(Value::as_object_mut)
                {
                    response.insert("status".into(), "incomplete".into());
                    response.insert("status_details".into(), json!({"type": "incomplete", "reason": "content_filter"}));
                }
                out.send(event);
            }
        }
    }

    fn rewrite(&self, event: &mut Event) {
        spoken::texts(event, &mut |place, _, text| {
            if !text.is_empty() {
                let left = self.parts.iter().rev().find(|part| part.place == place);
                *text = left.map(|part| part.passed.clone()).unwrap_or_default();
            }
        });
    }
}

impl Part {
    /// What is free of it and was not sent yet, as a piece.
    fn rest(&mut self, out: &mut Passed) {
        let (Some(template), true) = (&self.template, self.sent < self.passed.len()) else { return };
        let mut event = template.clone();
        event.insert("delta".into(), self.passed[self.sent..].into());
        self.sent = self.passed.len();
        out.send(event);
    }
}

/// Answers under way.
const MOST_AT_ONCE: usize = 32;
const MOST_PARTS: usize = 1024;
/// Bytes of former answers.
const MOST_PAST: usize = 4 << 20;
