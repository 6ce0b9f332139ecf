//! A realtime session: two WebSockets and what goes between them, message by message. What the client says passes the request
//! stages (`said.rs`), and what it is answered those that look at answers (`answered.rs`). Counts what the upstream reports, and ends when either side does, when nobody speaks, when the key is
//! revoked, the budget used up or the gateway's own time is over. Translates nothing.

use std::{
    borrow::Cow,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval, timeout, timeout_at};
use tokio_tungstenite::tungstenite::{
    self, Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth,
    codec::{opaque, skim::Skim},
    exchange::Exchange,
    limit::Need,
    model::{Operation, Usage},
    pipeline::Phase,
    route::{Flight, Target},
    server::{ClientSocket, Upgrade},
    upstream::Socket,
};

mod answered;
mod passed;
mod said;
mod spoken;

pub use answered::Guard;

/// All sessions under way. Each is a task of its own; only the end of the process waits for them.
#[derive(Default)]
pub struct Sessions {
    running: TaskTracker,
    over: CancellationToken,
}

impl Sessions {
    pub fn begin(&self, session: Box<Session>, exchange: Exchange) {
        self.running.spawn(session.run(exchange, self.over.clone()));
    }

    pub fn count(&self) -> usize {
        self.running.len()
    }

    /// Waits for them until then, and tells those that are left to end; how many these were.
    pub async fn end(&self, until: Instant) -> usize {
        self.running.close();
        if timeout_at(until.into(), self.running.wait()).await.is_ok() {
            return 0;
        }
        let left = self.running.len();
        self.over.cancel();
        // Each says goodbye to both sides, within a second a word.
        let _ = timeout(GOODBYE * 4, self.running.wait()).await;
        left
    }
}

/// A session that is about to begin.
pub struct Session {
    pub upgrade: Upgrade,
    pub upstream: Box<Socket>,
    pub target: Arc<Target>,
    pub flight: Option<Flight>,
    /// What stages see of the answers.
    pub guard: Option<Box<Guard>>,
    pub keys: Arc<auth::Table>,
    /// The caller's key, looked at again while it lasts.
    pub credential: Option<String>,
    pub began: Instant,
    /// Bytes of one message.
    pub limit: usize,
    pub write_stall: Duration,
}

/// A message of the upstream behind the stages.
enum Heard {
    AsItCame(Message),
    Looked(Vec<Message>),
}

impl Heard {
    /// Was it taken in time?
    async fn tell(self, client: &mut ClientSocket, stall: Duration) -> bool {
        let messages = match self {
            Heard::AsItCame(message) => return passed(client.send(message), stall).await,
            Heard::Looked(messages) => messages,
        };
        for message in messages {
            if !passed(client.send(message), stall).await {
                return false;
            }
        }
        true
    }
}

/// Why it ended: for the record, and for whoever is still there.
struct Ending {
    outcome: Cow<'static, str>,
    code: CloseCode,
    words: &'static str,
}

impl Session {
    /// From the 101 to the end.
    async fn run(self: Box<Self>, mut exchange: Exchange, over: CancellationToken) {
        let Session { upgrade, upstream, target, flight, guard, keys, credential, began, limit, write_stall } = *self;
        // What bounded the handshake does not bound what follows.
        exchange.cx.deadline = None;
        let shown = exchange.chain.again().wants(Phase::Request);
        let (exchange, used) = (Some(exchange), Usage::default());
        let mut live =
            Live { exchange, target, flight, guard, began, used, spoke: false, answering: false, shown, over };
        let Ok(client) = upgrade.open(limit).await else { return };
        let ending = live.relay(client, *upstream, &keys, credential.as_deref(), write_stall).await;
        live.settle(Some(ending));
    }
}

/// A session with its owner: however it ends, what it used is counted.
struct Live {
    exchange: Option<Exchange>,
    target: Arc<Target>,
    flight: Option<Flight>,
    guard: Option<Box<Guard>>,
    began: Instant,
    used: Usage,
    /// The client has said something.
    spoke: bool,
    /// An answer has begun, and is not over.
    answering: bool,
    /// Stages look at what it says.
    shown: bool,
    /// The gateway ends.
    over: CancellationToken,
}

impl Live {
    async fn relay(
        &mut self,
        mut client: ClientSocket,
        mut upstream: Socket,
        keys: &auth::Table,
        credential: Option<&str>,
        write_stall: Duration,
    ) -> Ending {
        let (idle, over) = (self.target.timeouts.idle, self.over.clone());
        let principal = self.exchange.as_ref().map(|exchange| exchange.cx.principal.clone()).unwrap_or_default();
        let mut cut = pin!(principal.is_cut());
        let mut heard = Instant::now();
        let mut ticks = interval(LOOK.min(idle / 2).max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ending = loop {
            tokio::select! {
                message = client.next() => match message {
                    Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                        heard = Instant::now();
                        self.spoke = true;
                        let (message, back) = self.show(message).await;
                        if let Some(message) = message
                            && !passed(upstream.send(message), write_stall).await
                        {
                            break Ending::upstream();
                        }
                        if let Some(refusal) = back
                            && !passed(client.send(refusal), write_stall).await
                        {
                            break Ending::gone();
                        }
                    }
                    Some(Ok(Message::Close(_))) => break Ending::done(),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break Ending::client(&error),
                    None => break Ending::gone(),
                },
                message = upstream.next() => match message {
                    Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                        heard = Instant::now();
                        self.answering = (self.answering || says(&message, BEGUN)) && !says(&message, DONE);
                        let usage = used(&message);
                        let (messages, cancel) = self.hear(message).await;
                        if let Some(cancel) = cancel
                            && !passed(upstream.send(cancel), write_stall).await
                        {
                            break Ending::upstream();
                        }
                        if !messages.tell(&mut client, write_stall).await {
                            break Ending::gone();
                        }
                        if let Some(usage) = usage
                            && !self.charge(&usage).await
                        {
                            break Ending::new("budget_exceeded", CloseCode::Policy, "the budget or rate limit is used up");
                        }
                    }
                    Some(Ok(Message::Close(frame))) => {
                        let _ = timeout(GOODBYE, client.close(frame)).await;
                        break Ending::done();
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => break Ending::upstream(),
                },
                () = over.cancelled() => {
                    break Ending::new("gateway_stopped", CloseCode::Away, "the gateway stops: connect again");
                }
                () = cut.as_mut() => {
                    break Ending::new("key_revoked", CloseCode::Policy, "the key is no longer good");
                }
                _ = ticks.tick() => {
                    let patience = if self.spoke { idle.saturating_mul(PAUSES) } else { idle };
                    if heard.elapsed() > patience {
                        break Ending::new("idle", CloseCode::Policy, "nobody has spoken for too long");
                    }
                    if !keys.is_good(credential, SystemTime::now()).await {
                        break Ending::new("key_revoked", CloseCode::Policy, "the key is no longer good");
                    }
                }
            }
        };
        if self.answering && ending.code != CloseCode::Error {
            self.last_word(&mut upstream).await;
        }
        // The upstream's side goes first: nothing more is to be paid for.
        let _ = timeout(GOODBYE, upstream.close(None)).await;
        drop(upstream);
        let frame = CloseFrame { code: ending.code, reason: ending.words.into() };
        let _ = timeout(GOODBYE, client.close(Some(frame))).await;
        // Where the client closed first, the answer to that still waits to be written.
        let _ = timeout(GOODBYE, client.flush()).await;
        ending
    }

    /// What an answer used that is broken off, if the upstream tells it in time.
    async fn last_word(&mut self, upstream: &mut Socket) {
        let asked = async {
            if upstream.send(Message::text(CANCEL)).await.is_err() {
                return;
            }
            while let Some(Ok(message)) = upstream.next().await {
                if let Some(usage) = used(&message) {
                    self.used.add(&usage);
                }
                if says(&message, DONE) {
                    return;
                }
            }
        };
        let _ = timeout(GOODBYE, asked).await;
    }

    /// The client's message as it goes on, if it does, and what the client is told instead.
    async fn show(&mut self, message: Message) -> (Option<Message>, Option<Message>) {
        let Some(exchange) = self.exchange.as_mut().filter(|_| self.shown) else { return (Some(message), None) };
        match said::passed(exchange, message).await {
            Ok(message) => (Some(message), None),
            Err((error, asked)) => {
                exchange.cx.trace.note("realtime", "a message was refused");
                (None, Some(said::told(exchange, &error, asked)))
            }
        }
    }

    /// What the client gets of the upstream's message, and what the upstream is told of that.
    async fn hear(&mut self, message: Message) -> (Heard, Option<Message>) {
        let (Some(guard), Some(exchange)) = (&mut self.guard, &mut self.exchange) else {
            return (Heard::AsItCame(message), None);
        };
        let passed = guard.pass(exchange, message).await;
        (Heard::Looked(passed.client), passed.cancel)
    }

    /// Whether it may go on: what was used is reserved, and room for another answer.
    async fn charge(&mut self, usage: &Usage) -> bool {
        self.used.add(usage);
        let Some(exchange) = &mut self.exchange else { return false };
        let spent = self.target.rates.as_ref().and_then(|rates| rates.cost(&self.used));
        let unpriced = exchange.bounds.unpriced().unwrap_or(0);
        let need = Need {
            input_tokens: self.used.input_tokens.unwrap_or(0),
            output_tokens: self.used.output_tokens.unwrap_or(0),
            nano_usd: spent.and_then(|nano| u64::try_from(nano).ok()).unwrap_or(0).saturating_add(unpriced),
        };
        let Some(permit) = &mut exchange.permit else { return false };
        permit.reserve(need, Need::default()).await.is_ok()
    }

    fn settle(&mut self, ending: Option<Ending>) {
        let Some(mut exchange) = self.exchange.take() else { return };
        if self.used != Usage::default() {
            exchange.used(&self.used);
        }
        if let Some(flight) = self.flight.take() {
            let mut flight = flight;
            flight.succeeded();
        }
        let outcome = ending.map_or("client_gone".into(), |e| e.outcome);
        if outcome != "ok" {
            exchange.record.error_code = Some(outcome.clone().into_owned());
        }
        exchange.attempted(&self.target.name, outcome, self.began);
        exchange.settle(SWITCHED);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.settle(None);
    }
}

impl Ending {
    fn new(outcome: &'static str, code: CloseCode, words: &'static str) -> Ending {
        Ending { outcome: outcome.into(), code, words }
    }

    fn done() -> Ending {
        Ending::new("ok", CloseCode::Normal, "")
    }

    fn gone() -> Ending {
        Ending::new("client_gone", CloseCode::Away, "")
    }

    fn upstream() -> Ending {
        Ending::new("upstream_disconnected", CloseCode::Error, "the upstream closed the session")
    }

    fn client(error: &tungstenite::Error) -> Ending {
        match error {
            tungstenite::Error::Capacity(_) => {
                Ending::new("request_too_large", CloseCode::Size, "the message is over server.max_event")
            }
            tungstenite::Error::Protocol(_) | tungstenite::Error::Utf8(_) => {
                Ending::new("invalid_request", CloseCode::Protocol, "this is no WebSocket message")
            }
            _ => Ending::gone(),
        }
    }
}

/// Was it taken in time?
async fn passed(sending: impl Future<Output = Result<(), tungstenite::Error>>, stall: Duration) -> bool {
    matches!(timeout(stall, sending).await, Ok(Ok(())))
}

/// Has the message that word?
fn says(message: &Message, word: &str) -> bool {
    matches!(message, Message::Text(text) if memchr::memmem::find(text.as_bytes(), word.as_bytes()).is_some())
}

/// What an answer that is over used.
fn used(message: &Message) -> Option<Usage> {
    if !(says(message, DONE) || says(message, "transcription.completed\"")) {
        return None;
    }
    let Message::Text(text) = message else { return None };
    let event: Value = serde_json::from_str(text).ok()?;
    let usage = match event["type"].as_str()? {
        "response.done" => &event["response"]["usage"],
        kind if kind.ends_with("transcription.completed") => &event["usage"],
        _ => return None,
    };
    let mut skim = Skim::new(false, opaque::FIELDS);
    skim.push(format!("{{\"usage\":{usage}}}").as_bytes());
    opaque::usage(crate::model::Format::OpenaiChat, Operation::Realtime, &skim, opaque::Asked::default())
}

const BEGUN: &str = "\"response.created\"";
const DONE: &str = "\"response.done\"";
const CANCEL: &str = r#"{"type":"response.cancel"}"#;
/// What the client's handshake was answered with.
const SWITCHED: u16 = 101;
/// How often the key is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A pause between two turns may be so many times as long as the silence before the first.
const PAUSES: u32 = 5;
const GOODBYE: Duration = Duration::from_secs(1);
