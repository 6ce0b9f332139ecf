//! What is kept, by name: the newest answers themselves, within a bound of memory, and of all that lie on the disk where they
//! stand. Pure bookkeeping under one lock; does no I/O and has no clock.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::items::Turn;
use crate::{
    config,
    lanes::{Bounds, Index, Place},
    seal::Name,
    telemetry::metrics,
};

#[derive(Default)]
pub struct Shelf {
    pub bounds: config::Responses,
    kept: HashMap<Name, Kept>,
    /// By age. An entry whose answer was removed or replaced meanwhile is passed over.
    order: VecDeque<(Name, u64)>,
    bytes: usize,
    serial: u64,
    places: HashMap<Name, Place>,
    /// On their way to the disk, each with the serial number that it was put down under.
    pending: HashMap<Name, u64>,
}

struct Kept {
    serial: u64,
    /// In seconds since 1970.
    expires: u64,
    turn: Arc<Turn>,
}

/// Where an answer is.
pub enum Look {
    Here(Arc<Turn>),
    There(Place),
    Nowhere,
}

/// A removal's leavings.
pub struct Gone {
    /// Somebody had it.
    pub found: bool,
    /// What stands on the disk.
    pub place: Option<Place>,
}

impl Shelf {
    pub fn new(bounds: config::Responses) -> Shelf {
        Shelf { bounds, ..Shelf::default() }
    }

    /// Keeps an answer in memory, if it does not push out most others. What was there under its name is out of date.
    pub fn put(&mut self, name: Name, turn: Arc<Turn>, expires: u64) -> Option<Place> {
        let Gone { place, .. } = self.remove(&name);
        self.insert(name, turn, expires);
        place
    }

    /// It is to be written; the number is that of this one among all that had the name.
    pub fn written_soon(&mut self, name: Name) -> u64 {
        self.serial += 1;
        self.pending.insert(name, self.serial);
        self.serial
    }

    pub fn look(&self, name: &Name, now: u64) -> Look {
        match (self.kept.get(name), self.places.get(name)) {
            (Some(kept), _) if kept.expires > now => Look::Here(kept.turn.clone()),
            (None, Some(place)) if place.expires > now => Look::There(*place),
            _ => Look::Nowhere,
        }
    }

    /// It was read from the disk. Not kept when it was removed while that was done.
    pub fn was_read(&mut self, name: Name, place: Place, turn: Arc<Turn>) {
        if self.places.get(&name) == Some(&place) && !self.kept.contains_key(&name) {
            self.insert(name, turn, place.expires);
        }
    }

    /// What stands at its place cannot be read. `false`: it was removed while somebody tried.
    pub fn was_damaged(&mut self, name: &Name, place: Place) -> bool {
        let there = self.places.get(name) == Some(&place);
        if there {
            self.places.remove(name);
        }
        there
    }

    pub fn remove(&mut self, name: &Name) -> Gone {
        let kept = self.kept.remove(name);
        if let Some(kept) = &kept {
            self.bytes = self.bytes.saturating_sub(size(&kept.turn));
        }
        let (place, pending) = (self.places.remove(name), self.pending.remove(name));
        Gone { found: kept.is_some() || place.is_some() || pending.is_some(), place }
    }

    /// A removal that failed on the disk can be asked for again.
    pub fn put_back(&mut self, name: Name, place: Place) {
        self.places.entry(name).or_insert(place);
    }

    fn insert(&mut self, name: Name, turn: Arc<Turn>, expires: u64) {
        if size(&turn) as u64 > self.bounds.memory / 4 {
            return;
        }
        self.serial += 1;
        let serial = self.serial;
        self.bytes += size(&turn);
        self.order.push_back((name, serial));
        self.kept.insert(name, Kept { serial, expires, turn });
    }

    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.bytes, self.kept.len(), self.places.len())
    }
}

impl Index for Shelf {
    fn bounds(&self) -> Bounds {
        Bounds { keep: self.bounds.keep, max_size: self.bounds.max_size }
    }

    fn found(&mut self, name: Name, place: Place) -> Option<Place> {
        self.places.insert(name, place)
    }

    fn written(&mut self, name: Name, serial: u64, place: Place) -> bool {
        let mine = self.pending.get(&name) == Some(&serial);
        if mine {
            self.pending.remove(&name);
            self.places.insert(name, place);
        }
        mine
    }

    fn unwritten(&mut self, name: &Name, serial: u64) {
        if self.pending.get(name) == Some(&serial) {
            self.pending.remove(name);
        }
    }

    fn segment_gone(&mut self, segment: u32, names: &[Name]) {
        for name in names {
            if self.places.get(name).is_some_and(|place| place.segment == segment) {
                self.places.remove(name);
                self.remove(name);
            }
        }
    }

    /// From the oldest on: what is gone, what is too old, what there is no room for.
    fn sweep(&mut self, now: u64) {
        let most = usize::try_from(self.bounds.memory).unwrap_or(usize::MAX);
        while let Some((name, serial)) = self.order.front() {
            match self.kept.get(name).filter(|kept| kept.serial == *serial) {
                Some(kept) if self.bytes <= most && kept.expires > now => return,
                Some(kept) => {
                    self.bytes = self.bytes.saturating_sub(size(&kept.turn));
                    self.kept.remove(name);
                }
                None => {}
            }
            self.order.pop_front();
        }
        self.order.shrink_to(MOST_IDLE);
    }

    fn unwritable(&self) {
        metrics().response_unwritten();
    }
}

fn size(turn: &Turn) -> usize {
    turn.size() + OVERHEAD
}

/// What an entry costs besides its bytes.
const OVERHEAD: usize = 256;
const MOST_IDLE: usize = 1024;
