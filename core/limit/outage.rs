//! What one gateway may give out while the store that counts for all does not answer: of each counter a part of what was left
//! when it was seen last, and nothing of one that was never seen. A part does not fill up again before the store is back.
//! Pure: no clock, no store.

use std::collections::HashMap;

use crate::store::counters::{Form, Id, Left, Want};

#[derive(Debug, Default)]
pub struct Outage {
    /// Counted upwards: what may be given out is reckoned anew in each.
    number: u64,
    books: HashMap<String, Book>,
    /// What is under way or not yet told to the store.
    made: HashMap<Id, Vec<Part>>,
}

/// Of one counter.
#[derive(Debug, Default)]
struct Book {
    /// What was left when the store answered last.
    left: u64,
    /// In this outage.
    number: u64,
    most: u64,
    /// Of that.
    now: u64,
    /// Given out, and nothing that the store knows of: in this outage or in one before.
    given: u64,
}

/// What a claim was given of one counter without the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub counter: String,
    pub amount: u64,
    form: Form,
}

impl Outage {
    /// The store has answered.
    pub fn saw(&mut self, wants: &[Want], left: &[Left]) {
        for (want, left) in wants.iter().zip(left) {
            if !self.books.contains_key(&want.counter.name) && self.books.len() >= MOST {
                // Of what nobody gave anything nothing is lost: it is seen again with the next request.
                self.books.retain(|_, book| book.given > 0);
            }
            self.books.entry(want.counter.name.clone()).or_default().left = left.left;
        }
    }

    /// From now on it does not.
    pub fn begin(&mut self) {
        self.number += 1;
    }

    /// All that is wanted, out of this gateway's `part` of what was left, or `None` and nothing.
    pub fn take(&mut self, id: Id, wants: &[Want], part: f64) -> Option<Vec<Left>> {
        let mut left = Vec::with_capacity(wants.len());
        for want in wants {
            let book = self.books.get_mut(&want.counter.name)?;
            if book.number != self.number {
                (book.number, book.now) = (self.number, 0);
                book.most = share(book.left, part);
            }
            let has = self.made.get(&id).into_iter().flatten().filter(|part| part.counter == want.counter.name);
            // Held by id: the store may have let go of what the claim had. Nothing is counted upon.
            let has = match want.counter.form {
                Form::Bucket | Form::Sum => want.has,
                Form::Places | Form::Money => want.has.max(has.map(|part| part.amount).sum()),
            };
            let more = want.wants.saturating_sub(has);
            let free = book.most.saturating_sub(book.given.max(book.now));
            if more > free && !want.shadow {
                return None;
            }
            left.push((more.min(free), free.saturating_sub(more)));
        }
        let parts = self.made.entry(id).or_default();
        for (want, (more, _)) in wants.iter().zip(&left).filter(|(_, (more, _))| *more > 0) {
            if let Some(book) = self.books.get_mut(&want.counter.name) {
                book.given = book.given.saturating_add(*more);
                book.now = book.now.saturating_add(*more);
            }
            match parts.iter_mut().find(|part| part.counter == want.counter.name) {
                Some(part) => part.amount += more,
                None => {
                    let (counter, form) = (want.counter.name.clone(), want.counter.form);
                    parts.push(Part { counter, amount: *more, form });
                }
            }
        }
        let left = left.into_iter().map(|(_, left)| Left { left, full_after: Default::default(), denied: None });
        Some(left.collect())
    }

    /// A claim is over: what it was given here. It stays given until the store knows of it; a place is free at once.
    pub fn ended(&mut self, id: Id) -> Vec<Part> {
        let (places, parts): (Vec<Part>, Vec<Part>) =
            self.made.remove(&id).unwrap_or_default().into_iter().partition(|part| part.form == Form::Places);
        self.known(&places);
        for place in &places {
            if let Some(book) = self.books.get_mut(&place.counter) {
                book.now = book.now.saturating_sub(place.amount);
            }
        }
        parts
    }

    /// The store knows of these now.
    pub fn known(&mut self, parts: &[Part]) {
        for part in parts {
            if let Some(book) = self.books.get_mut(&part.counter) {
                book.given = book.given.saturating_sub(part.amount);
            }
        }
    }
}

/// Rounded down: all parts together are never more than the whole share.
fn share(left: u64, part: f64) -> u64 {
    // Whole numbers below 2^53.
    (left as f64 * part.clamp(0.0, 1.0)).floor() as u64
}

/// Counters that are remembered.
const MOST: usize = 100_000;
