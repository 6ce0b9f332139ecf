//! Where a target's gate and its provider's keys stand. A target looks them up by name once for each registry, and remembers the
//! places: a choice among many targets is an index each. Knows no arithmetic, and locks nothing.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use super::{KeyGate, gate::Gate, take::At};

/// A target's places: the registry's number, the gate's place and the keys' one, each from 1; 0: it has none.
#[derive(Debug, Default)]
pub struct Slot(AtomicU64);

/// All that a registry has, in a row.
#[derive(Default, Clone)]
pub(super) struct Seats {
    /// Of all registries that ever were; 0: it is empty.
    number: u32,
    gates: Row<Arc<Gate>>,
    keys: Row<Arc<[KeyGate]>>,
}

#[derive(Clone)]
struct Row<T> {
    all: Vec<T>,
    places: HashMap<Arc<str>, usize, foldhash::quality::RandomState>,
}

impl<T> Default for Row<T> {
    fn default() -> Self {
        Row { all: Vec::new(), places: HashMap::default() }
    }
}

impl<T> Row<T> {
    fn of(all: impl Iterator<Item = (Arc<str>, T)>) -> Row<T> {
        let mut row = Row::default();
        for (name, one) in all {
            row.places.insert(name, row.all.len());
            row.all.push(one);
        }
        row
    }

    /// From 1; 0: it has none.
    fn place(&self, name: &str) -> usize {
        self.places.get(name).map_or(0, |place| place + 1)
    }

    fn at(&self, place: usize) -> Option<&T> {
        self.all.get(place.checked_sub(1)?)
    }
}

impl Seats {
    pub fn of<'r>(
        gates: impl Iterator<Item = (&'r Arc<str>, &'r Arc<Gate>)>,
        keys: impl Iterator<Item = (&'r Arc<str>, &'r Vec<KeyGate>)>,
    ) -> Seats {
        static NUMBERS: AtomicU32 = AtomicU32::new(1);
        Seats {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            gates: Row::of(gates.map(|(name, gate)| (name.clone(), gate.clone()))),
            keys: Row::of(keys.map(|(name, keys)| (name.clone(), keys.as_slice().into()))),
        }
    }

    pub fn find(&self, at: At<'_>) -> Found<'_> {
        if let Some(known) = self.known(at.slot) {
            return known;
        }
        let (gate, keys) = (self.gates.place(at.name), self.keys.place(&at.provider.name));
        // What does not fit is looked up each time.
        if let (Ok(gate), Ok(keys)) = (u16::try_from(gate), u16::try_from(keys)) {
            let places = u64::from(gate) << 16 | u64::from(keys);
            at.slot.0.store(u64::from(self.number) << 32 | places, Ordering::Relaxed);
        }
        (self.gates.at(gate), self.keys.at(keys))
    }

    /// Of who remembers its places; `None`: it has to `find` them.
    #[inline]
    pub fn known(&self, slot: &Slot) -> Option<Found<'_>> {
        let known = slot.0.load(Ordering::Relaxed);
        let (gate, keys) = ((known >> 16 & PLACES) as usize, (known & PLACES) as usize);
        ((known >> 32) as u32 == self.number).then(|| (self.gates.at(gate), self.keys.at(keys)))
    }
}

/// The gate of a target, and those of its provider's keys.
pub(super) type Found<'s> = (Option<&'s Arc<Gate>>, Option<&'s Arc<[KeyGate]>>);

const PLACES: u64 = u16::MAX as u64;
