//! Long input: a text that is larger than `long_input.chunk_tokens` is read in pieces. Each piece is put to a model with the
//! caller's own turns around it, several at a time, each as a question of its own with the caller's limits and budget; then
//! what was found takes the text's place, and the request goes on as any other. Nothing happens to requests that are short,
//! and they cost a comparison.

use std::{
    fmt::Write,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::HeaderMap;

use crate::{
    aside, clock,
    codec::{EVENT_STREAM, Field, StreamEncoder, codec, document::Document, framing::Framing},
    config::LongInput,
    error::{Error, Kind, Result},
    exchange::Exchange,
    gateway::Gateway,
    generated::Sink,
    model::{Message, Operation, Part, Request, Response, Role},
    pipeline::ask::{Answer, Behalf, Question},
    reply::{self, Reply},
    runtime::Runtime,
    text::{cut::cut as pieces_of, tokens},
};

/// A text that is to be read in pieces.
pub struct Cut {
    place: Place,
    text: Arc<str>,
    pieces: Vec<String>,
    /// The name that was asked for.
    model: String,
}

impl Cut {
    /// Pieces.
    pub fn count(&self) -> usize {
        self.pieces.len()
    }
}

/// Is there something to be read in pieces? `None` for nearly every request.
pub async fn cut(settings: &LongInput, operation: Operation, document: &mut Document) -> Result<Option<Cut>> {
    let most = settings.chunk_tokens;
    // A token has at least a byte.
    if operation != Operation::Chat || document.text_bytes() <= most as u64 {
        return Ok(None);
    }
    let model = document.model().to_owned();
    let request = document.request()?;
    let Some(place) = longest(request) else { return Ok(None) };
    let text: Arc<str> = place.text(request).into();
    let (long, name) = (text.clone(), model.clone());
    let pieces = tokio::task::spawn_blocking(move || pieces(&long, most, &name)).await;
    let Some(pieces) = pieces.map_err(|_| Error::new(Kind::Internal, "the long input could not be cut"))? else {
        return Ok(None);
    };
    if pieces.len() > settings.most_chunks {
        let message = format!(
            "the request's longest text has {} pieces of {most} tokens, and {} are read at most; send a shorter one",
            pieces.len(),
            settings.most_chunks
        );
        return Err(Error::new(Kind::TooLarge, message));
    }
    Ok(Some(Cut { place, text, pieces, model }))
}

/// Has the pieces read and puts what was found in the text's place. `Some`: the answer is made already, of the pieces' own.
pub async fn read(
    (gateway, runtime): (&Gateway, &Runtime),
    settings: &LongInput,
    exchange: &mut Exchange,
    document: &mut Document,
    Cut { place, text, pieces, model }: Cut,
    progress: &mut Progress,
) -> Result<Option<String>> {
    let most = settings.chunk_tokens;
    let asked_of = settings.model.clone().unwrap_or_else(|| model.clone());
    exchange.cx.trace.note(STAGE, &format!("{} pieces of {most} tokens, read by {asked_of}", pieces.len()));
    let reader = Reader {
        gateway,
        runtime,
        behalf: Behalf::of(&exchange.cx, &STAGE.into(), settings.model.is_some(), settings.wait),
        wait: settings.wait,
        deadline: exchange.cx.deadline,
        model: asked_of,
        parallel: settings.parallel,
    };
    let (count, ends, turns) = (pieces.len(), ends(&text), document.request()?.messages.clone());
    let questions = pieces.into_iter().enumerate().map(|(at, piece)| {
        let told = map_words(at + 1, count, &ends, settings.instruction.as_deref());
        let mut turns = turns.clone();
        place.put(&mut turns, piece);
        turns.insert(0, Message::text(Role::System, told));
        turns
    });
    let mut found = reader.read(questions.collect(), exchange, progress).await?;
    if let Some(template) = &settings.template {
        return Ok(Some(merged(template, &found)));
    }
    // Findings that are too long themselves are merged in rounds, each of which makes them fewer.
    let mut rounds = 0;
    while found.len() > 1 && tokens::of(&found.join("\n"), &model) > most {
        if rounds == MOST_ROUNDS {
            let message = "what was found in the long input is itself too long; ask for less of it";
            return Err(Error::new(Kind::TooLarge, message));
        }
        rounds += 1;
        let groups = groups(&found, most, &model);
        let questions = groups.iter().map(|group| merge_turns(group, &ends)).collect();
        found = reader.read(questions, exchange, progress).await?;
    }
    let findings = findings(&found, count);
    let size = &mut exchange.size;
    size.text_bytes = size.text_bytes.saturating_sub(text.len() as u64) + findings.len() as u64;
    place.put(&mut document.edit(Field::Messages)?.messages, findings);
    Ok(None)
}

/// How a client that streams hears of it, where `long_input.progress` says so.
pub enum Progress {
    Silent,
    /// A comment a piece; where the format has none, its keep-alive.
    Told {
        encoder: Box<dyn StreamEncoder>,
        comments: bool,
        sink: Sink,
    },
}

impl Progress {
    async fn step(&mut self, done: usize, count: usize) {
        let Progress::Told { encoder, comments, sink } = self else { return };
        let mut frame = Vec::new();
        match comments {
            true => frame.extend_from_slice(format!(": read {done} of {count} parts\n\n").as_bytes()),
            false => encoder.keep_alive(&mut frame),
        }
        if !frame.is_empty() {
            sink.send([Bytes::from(frame)]).await;
        }
    }
}

/// A streamed request whose pieces are still to be read: its head goes out at once.
pub struct Pieces {
    pub settings: LongInput,
    pub document: Document,
    pub cut: Cut,
    pub client: HeaderMap,
}

impl Pieces {
    /// The whole way without a word to the client.
    pub async fn at_once(self, gateway: &Gateway, runtime: &Runtime, exchange: &mut Exchange) -> Result<Reply> {
        let Pieces { settings, mut document, cut, client } = self;
        match read((gateway, runtime), &settings, exchange, &mut document, cut, &mut Progress::Silent).await? {
            Some(text) => reply::made(exchange, Response::of_text(text), document.stream()).await,
            None => gateway.routed(runtime, exchange, &client, &mut document).await,
        }
    }

    /// The body: comments while the pieces are read, then the answer.
    pub async fn run(
        self,
        gateway: Arc<Gateway>,
        runtime: Arc<Runtime>,
        mut exchange: Exchange,
        sink: Sink,
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Pieces { settings, mut document, cut, client } = self;
        let (format, view) = (exchange.cx.format, exchange.view());
        let comments = Framing::of(format).content_type() == EVENT_STREAM;
        let mut progress =
            Progress::Told { encoder: codec(format).stream_encoder(&view), comments, sink: sink.clone() };
        let read = read((&gateway, &runtime), &settings, &mut exchange, &mut document, cut, &mut progress).await;
        let reply = match read {
            Ok(Some(text)) => reply::made(&mut exchange, Response::of_text(text), true).await,
            Ok(None) => gateway.routed(&runtime, &mut exchange, &client, &mut document).await,
            Err(error) => Err(error),
        };
        match reply {
            Ok(Reply::Stream(streaming)) => return streaming.run(exchange, sink).await,
            Ok(Reply::Whole { body, .. }) => {
                sink.send([body]).await;
                exchange.settle(200);
            }
            Ok(_) => exchange.settle(500),
            Err(mut error) => {
                // Stages may reword it; an answer in its place would come too late.
                let inner = &mut *exchange;
                inner.chain.error(&mut inner.cx, &mut error).await;
                let (id, mut frame) = (exchange.cx.id.clone(), Vec::new());
                codec(format).stream_encoder(&view).error(&error, &id, &mut frame);
                sink.send([Bytes::from(frame)]).await;
                exchange.record.error_code = Some(error.code().to_owned());
                exchange.settle(error.status());
            }
        }
        Ok(())
    }
}

/// Puts questions to the model, several at a time, in order.
struct Reader<'g> {
    gateway: &'g Gateway,
    runtime: &'g Runtime,
    behalf: Behalf,
    /// For one question.
    wait: Duration,
    /// The request's own.
    deadline: Option<Instant>,
    model: String,
    parallel: usize,
}

impl Reader<'_> {
    /// Their answers, in order.
    async fn read(
        &self,
        questions: Vec<Vec<Message>>,
        exchange: &mut Exchange,
        progress: &mut Progress,
    ) -> Result<Vec<String>> {
        let count = questions.len();
        let answers = questions.into_iter().map(|messages| self.one(messages)).collect::<Vec<_>>();
        let mut answers = pin!(stream::iter(answers).buffered(self.parallel));
        let mut found = Vec::with_capacity(count);
        // The first that fails ends the others: a merge without one of them would pass for the whole.
        while let Some(answer) = answers.try_next().await? {
            exchange.cx.trace.note(STAGE, &answer.note);
            found.push(answer.text);
            progress.step(found.len(), count).await;
        }
        Ok(found)
    }

    async fn one(&self, messages: Vec<Message>) -> Result<Answer> {
        let until = clock::now() + self.wait;
        let until = self.deadline.map_or(until, |deadline| deadline.min(until));
        let request = Request { model: self.model.clone(), messages, ..Request::default() };
        aside::answer(self.gateway, self.runtime, Question { behalf: Behalf { until, ..self.behalf.clone() }, request })
            .await
    }
}

/// Where the longest text of a request stands: message and part.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    message: usize,
    part: usize,
}

fn longest(request: &Request) -> Option<Place> {
    let mut best: Option<(usize, Place)> = None;
    for (message, turn) in request.messages.iter().enumerate().filter(|(_, turn)| turn.role == Role::User) {
        for (part, piece) in turn.parts.iter().enumerate() {
            let Part::Text(text) = piece else { continue };
            if best.as_ref().is_none_or(|(length, _)| text.text.len() > *length) {
                best = Some((text.text.len(), Place { message, part }));
            }
        }
    }
    best.map(|(_, place)| place)
}

impl Place {
    fn text(self, request: &Request) -> &str {
        match request.messages.get(self.message).and_then(|turn| turn.parts.get(self.part)) {
            Some(Part::Text(text)) => &text.text,
            _ => "",
        }
    }

    fn put(self, turns: &mut [Message], text: String) {
        if let Some(part) = turns.get_mut(self.message).and_then(|turn| turn.parts.get_mut(self.part)) {
            *part = Part::text(text);
        }
    }
}

/// `None`: it is short enough.
fn pieces(text: &str, most: usize, model: &str) -> Option<Vec<String>> {
    if tokens::of(text, model) <= most {
        return None;
    }
    Some(pieces_of(text, most, model).into_iter().map(str::to_owned).collect())
}

/// A text's beginning and end: what is asked of a long text stands before or behind it, and only one piece would have it.
fn ends(text: &str) -> String {
    let head = &text[..text.floor_char_boundary(END)];
    let tail = &text[text.ceil_char_boundary(text.len() - END.min(text.len()))..];
    format!("The whole text begins with:\n<begin>\n{head}\n</begin>\nand ends with:\n<end>\n{tail}\n</end>")
}

fn map_words(at: usize, count: usize, ends: &str, instruction: Option<&str>) -> String {
    let own = instruction.map_or(String::new(), |own| format!("{own}\n"));
    format!(
        "{own}The user's text is too long to be read at once. You see part {at} of {count}. Do with this part what is asked \
         of the whole, or write down everything in it that the answer needs, with exact names, numbers and quotes. Where \
         the part has nothing for it, answer \"nothing\". Your notes are merged with those of the other parts.\n{ends}"
    )
}

fn merge_turns(group: &[String], ends: &str) -> Vec<Message> {
    let told = format!(
        "A long text was read in parts. Merge the notes into one, shorter, and lose nothing that the answer to its question \
         needs. Keep their order.\n{ends}"
    );
    vec![Message::text(Role::System, told), Message::text(Role::User, group.join("\n\n"))]
}

/// Neighbours, as many as fit, two at least.
fn groups(found: &[String], most: usize, model: &str) -> Vec<Vec<String>> {
    let mut groups: Vec<Vec<String>> = Vec::new();
    let mut size = 0;
    for text in found {
        let own = tokens::of(text, model);
        match groups.last_mut().filter(|group| group.len() < 2 || size + own <= most) {
            Some(group) => {
                group.push(text.clone());
                size += own;
            }
            None => {
                groups.push(vec![text.clone()]);
                size = own;
            }
        }
    }
    groups
}

fn findings(found: &[String], count: usize) -> String {
    let mut out = format!(
        "[The text that stood here was too long and was read in {count} parts. These are the notes on it, in order. Answer \
         from them as if you had read the text itself.]\n"
    );
    for (at, text) in found.iter().enumerate() {
        // Writing to a String does not fail.
        let _ = write!(out, "\n<notes part=\"{}\">\n{}\n</notes>\n", at + 1, text.trim());
    }
    out
}

/// `{part}` and `{n}` stand for each piece's answer and its number.
fn merged(template: &str, found: &[String]) -> String {
    let one =
        |(at, text): (usize, &String)| template.replace("{n}", &(at + 1).to_string()).replace("{part}", text.trim());
    found.iter().enumerate().map(one).collect()
}

/// As the trace and the records of its questions call it.
const STAGE: &str = "long_input";
/// Bytes of a text's beginning and end that each piece's reader is shown.
const END: usize = 600;
const MOST_ROUNDS: u32 = 4;

#[cfg(test)]
mod tests;
