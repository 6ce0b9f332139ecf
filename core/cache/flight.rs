//! One request that flies for all who ask the same meanwhile: what its answer says, from the beginning, for those that follow.
//! Bounded in bytes: while it is short enough to be kept all of it is held, so that who comes late hears it from its
//! beginning; what is longer is held as far as somebody has still to hear it. Knows no requests and sends nothing.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

use super::{
    key::Key,
    shelf::{Given, Kept},
    weight,
};
use crate::{
    clock,
    error::{Error, Kind},
    model::{Event, FinishReason, Response, fold::Fold, fold::unfold},
};

/// What one flight has to tell.
pub struct Flight {
    pub key: Key,
    /// Bytes of an answer that may be kept.
    most: usize,
    tape: Mutex<Tape>,
    /// Something was added to the tape.
    told: watch::Sender<()>,
    /// How many follow.
    followed: watch::Sender<usize>,
    /// A follower has heard more.
    heard: Notify,
    numbers: AtomicUsize,
}

#[derive(Default)]
struct Tape {
    /// From `begins` on.
    events: VecDeque<Event>,
    begins: usize,
    /// Of the whole answer so far, and of what of it lies here.
    bytes: usize,
    held: usize,
    /// Which attempt this is: a later one begins anew.
    round: u32,
    stands: Stands,
    /// Output is among them.
    committed: bool,
    /// All of it lies here, so that others may come.
    open: bool,
    whole: Option<Arc<Response>>,
    /// It was there already, and nothing flew.
    given: Option<Arc<Kept>>,
    /// Another attempt was made after it was complete: it is not what its leader's client got.
    stale: bool,
    /// Who has heard how far, by number.
    places: Vec<(usize, usize)>,
}

#[derive(Debug, Default)]
enum Stands {
    #[default]
    Flying,
    Complete,
    /// With what its followers are to be told; `None`: it was the leader's own affair.
    Failed(Option<Arc<Error>>),
}

/// One who follows.
pub struct Follower {
    flight: Arc<Flight>,
    told: watch::Receiver<()>,
    number: usize,
    round: u32,
    at: usize,
}

/// What a follower hears.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "handed over one at a time, and nearly always an event")]
pub enum Heard {
    Event(Event),
    /// Another attempt begins: nothing of the one before counts.
    Again,
    Complete,
    /// `None`: it failed for a reason of the leader's own.
    Failed(Option<Arc<Error>>),
}

impl Flight {
    /// `most`: bytes of an answer that is held whole.
    pub fn new(key: Key, most: usize) -> Arc<Flight> {
        let tape = Mutex::new(Tape { open: true, ..Tape::default() });
        let (told, followed) = (watch::Sender::new(()), watch::Sender::new(0));
        Arc::new(Flight { key, most, tape, told, followed, heard: Notify::new(), numbers: AtomicUsize::new(0) })
    }

    /// Bytes of an answer that may be kept.
    pub fn most(&self) -> usize {
        self.most
    }

    /// One more who follows from the beginning; `None`: it is too late.
    pub fn join(self: &Arc<Self>) -> Option<Follower> {
        let mut tape = self.lock();
        if !tape.open || matches!(tape.stands, Stands::Failed(_)) {
            return None;
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        tape.places.push((number, 0));
        self.followed.send_modify(|count| *count += 1);
        Some(Follower { flight: self.clone(), told: self.told.subscribe(), number, round: tape.round, at: 0 })
    }

    pub fn is_followed(&self) -> bool {
        *self.followed.borrow() > 0
    }

    /// Until nobody follows.
    pub async fn is_deserted(&self) {
        // The sender is ours: it does not end before us.
        let _ = self.followed.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Until somebody follows.
    pub async fn is_joined(&self) {
        let _ = self.followed.subscribe().wait_for(|count| *count > 0).await;
    }

    /// An attempt begins. What was complete already stays what it is.
    pub fn begin(&self) {
        let mut tape = self.lock();
        tape.stale |= matches!(tape.stands, Stands::Complete);
        if matches!(tape.stands, Stands::Flying) && (tape.begins > 0 || !tape.events.is_empty()) {
            tape.events.clear();
            (tape.begins, tape.bytes, tape.held, tape.committed) = (0, 0, 0, false);
            tape.round += 1;
            tape.places.iter_mut().for_each(|(_, at)| *at = 0);
            drop(tape);
            self.tell();
        }
    }

    /// One event, for all who follow. Waits only where the answer is too long to be held whole and somebody is far behind.
    pub async fn push(&self, event: Event) {
        let ends = event == Event::End;
        {
            let mut tape = self.lock();
            if !matches!(tape.stands, Stands::Flying) || matches!(event, Event::Ping) {
                return;
            }
            let size = weight::of_event(&event);
            (tape.bytes, tape.held) = (tape.bytes + size, tape.held + size);
            tape.committed |= event.commits();
            tape.events.push_back(event);
            if tape.bytes > self.most {
                tape.open = false;
                tape.trim();
            }
            if ends {
                tape.end();
            }
        }
        self.tell();
        self.wait_for_slow().await;
    }

    /// An answer that came whole.
    pub fn push_whole(&self, response: &Response) {
        let mut tape = self.lock();
        if !matches!(tape.stands, Stands::Flying) {
            return;
        }
        tape.events = unfold(response).into();
        tape.bytes = weight::weight(response);
        tape.held = tape.bytes;
        (tape.begins, tape.committed, tape.stands) = (0, true, Stands::Complete);
        tape.open &= tape.bytes <= self.most;
        tape.whole = tape.open.then(|| Arc::new(response.clone()));
        drop(tape);
        self.tell();
    }

    /// The answer lay behind memory: all who follow have it at once.
    pub fn give(&self, kept: &Arc<Kept>) {
        let Given::Said(response) = &kept.given else { return };
        // First, so that nobody takes it for one that flew.
        self.lock().given = Some(kept.clone());
        self.push_whole(response);
    }

    /// Its followers hear of it. What is complete stays so.
    pub fn fail(&self, error: Option<Error>) {
        let mut tape = self.lock();
        if matches!(tape.stands, Stands::Flying) {
            tape.stands = Stands::Failed(error.map(Arc::new));
            tape.events.clear();
            drop(tape);
            self.tell();
        }
    }

    /// The whole answer, if it is one that may be kept: complete, ended by the model itself, not too long.
    pub fn keepable(&self) -> Option<Arc<Response>> {
        let tape = self.lock();
        let whole = tape.whole.as_ref().filter(|_| matches!(tape.stands, Stands::Complete) && !tape.stale)?;
        is_good(whole).then(|| whole.clone())
    }

    fn tell(&self) {
        self.told.send_replace(());
    }

    /// The answer's pace is that of its slowest reader, once it is too long; who does not read at all is left behind.
    async fn wait_for_slow(&self) {
        let until = clock::now() + STALL;
        loop {
            let heard = self.heard.notified();
            {
                let mut tape = self.lock();
                if tape.open || tape.held <= self.most || tape.places.is_empty() {
                    return;
                }
                if clock::now() >= until {
                    let slowest = tape.places.iter().map(|(_, at)| *at).min().unwrap_or(0);
                    tape.places.retain(|(_, at)| *at > slowest);
                    tape.trim();
                    drop(tape);
                    return self.tell();
                }
            }
            let _ = clock::timeout_at(until, heard).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tape> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tape {
    /// Lets go of what all have heard.
    fn trim(&mut self) {
        let heard = self.places.iter().map(|(_, at)| *at).min().unwrap_or(self.begins + self.events.len());
        while self.begins < heard
            && let Some(event) = self.events.pop_front()
        {
            self.begins += 1;
            self.held = self.held.saturating_sub(weight::of_event(&event));
        }
    }

    fn end(&mut self) {
        self.stands = Stands::Complete;
        if self.open {
            let mut fold = Fold::default();
            self.events.iter().cloned().for_each(|event| fold.push(event));
            self.whole = Some(Arc::new(fold.finish()));
        }
    }
}

impl Follower {
    /// The next thing that it has not heard yet. May be dropped while it waits.
    pub async fn next(&mut self) -> Heard {
        loop {
            self.told.borrow_and_update();
            if let Some(heard) = self.take() {
                return heard;
            }
            if self.told.changed().await.is_err() {
                return Heard::Failed(None);
            }
        }
    }

    /// Until there is output to deliver, or the end.
    pub async fn committed(&mut self) -> Result<(), Option<Arc<Error>>> {
        loop {
            self.told.borrow_and_update();
            {
                let tape = self.flight.lock();
                match &tape.stands {
                    Stands::Failed(error) => return Err(error.clone()),
                    Stands::Complete => return Ok(()),
                    Stands::Flying if tape.committed => return Ok(()),
                    Stands::Flying => {}
                }
            }
            if self.told.changed().await.is_err() {
                return Err(None);
            }
        }
    }

    /// The answer that was there, where nothing flew.
    pub fn given(&self) -> Option<Arc<Kept>> {
        self.flight.lock().given.clone()
    }

    /// The whole answer.
    pub async fn whole(&mut self) -> Result<Arc<Response>, Option<Arc<Error>>> {
        let mut fold = Fold::default();
        loop {
            if let Some(whole) = self.flight.lock().whole.clone() {
                return Ok(whole);
            }
            match self.next().await {
                Heard::Event(event) => fold.push(event),
                Heard::Again => fold = Fold::default(),
                Heard::Complete => return Ok(Arc::new(fold.finish())),
                Heard::Failed(error) => return Err(error),
            }
        }
    }

    fn take(&mut self) -> Option<Heard> {
        let mut tape = self.flight.lock();
        if self.round != tape.round {
            (self.round, self.at) = (tape.round, 0);
            return Some(Heard::Again);
        }
        if let Stands::Failed(error) = &tape.stands {
            return Some(Heard::Failed(error.clone()));
        }
        let Some(next) = self.at.checked_sub(tape.begins) else {
            return Some(Heard::Failed(Some(Arc::new(left_behind()))));
        };
        match tape.events.get(next).cloned() {
            Some(event) => {
                self.at += 1;
                let (number, at) = (self.number, self.at);
                if let Some(place) = tape.places.iter_mut().find(|(mine, _)| *mine == number) {
                    place.1 = at;
                }
                if !tape.open {
                    tape.trim();
                    self.flight.heard.notify_waiters();
                }
                Some(Heard::Event(event))
            }
            None if matches!(tape.stands, Stands::Complete) => Some(Heard::Complete),
            None => None,
        }
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Follower")
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut tape = self.flight.lock();
        tape.places.retain(|(number, _)| *number != self.number);
        if !tape.open {
            tape.trim();
        }
        drop(tape);
        self.flight.followed.send_modify(|count| *count -= 1);
        self.flight.heard.notify_waiters();
    }
}

/// Each choice ended by itself: not cut by a bound, not filtered, not broken.
fn is_good(response: &Response) -> bool {
    let good = |reason| matches!(reason, FinishReason::Stop | FinishReason::ToolCalls);
    let ended = |choice: &crate::model::Choice| choice.finish.as_ref().is_some_and(|finish| good(finish.reason));
    let refuses =
        |choice: &crate::model::Choice| choice.parts.iter().any(|part| matches!(part, crate::model::Part::Refusal(_)));
    !response.choices.is_empty() && response.choices.iter().all(|choice| ended(choice) && !refuses(choice))
}

fn left_behind() -> Error {
    let text = "the answer went on without this client, which read too slowly; ask again";
    Error::new(Kind::Upstream, text)
}

/// One who reads nothing for so long is left behind.
const STALL: Duration = Duration::from_secs(10);
