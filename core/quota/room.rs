//! What one attempt may use at most: what is left of the quotas that count tokens or money. Read without a lock; whether it is still there
//! is decided when it is taken.

use super::{At, View, frame::Millis, gate::Gate};
use crate::{config::Unit, limit::Need};

impl View {
    /// What an attempt at this target may use at most, as far as tokens and money are counted; `None`: they are not.
    pub fn room(&self, at: At<'_>) -> Option<Room> {
        let (now, (own, keys)) = (self.now, self.registry.seats.find(at));
        let room = own.and_then(|gate| Room::of(gate, now));
        // The key that has the most: which one it will be is not known yet.
        let keys = keys.into_iter().flat_map(|keys| keys.iter());
        let roomiest = keys.filter_map(|key| Room::of(&key.gate, now)).reduce(Room::or);
        match (room, roomiest) {
            (Some(own), Some(key)) => Some(own.and(key)),
            (own, key) => own.or(key),
        }
    }
}

/// What is left of what is measured; `u64::MAX`: nobody counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub input: u64,
    pub output: u64,
    pub tokens: u64,
    pub nano_usd: u64,
}

impl Room {
    fn of(gate: &Gate, now: Millis) -> Option<Room> {
        let all = Room { input: u64::MAX, output: u64::MAX, tokens: u64::MAX, nano_usd: u64::MAX };
        let room = gate.meters.iter().fold(all, |mut room, meter| {
            let of = match meter.unit {
                Unit::Requests => return room,
                Unit::InputTokens => &mut room.input,
                Unit::OutputTokens => &mut room.output,
                Unit::Tokens => &mut room.tokens,
                Unit::Usd => &mut room.nano_usd,
            };
            *of = meter.left(now).min(*of);
            room
        });
        (room != all).then_some(room)
    }

    fn and(self, other: Room) -> Room {
        self.each(other, u64::min)
    }

    fn or(self, other: Room) -> Room {
        self.each(other, u64::max)
    }

    fn each(self, other: Room, of: fn(u64, u64) -> u64) -> Room {
        Room {
            input: of(self.input, other.input),
            output: of(self.output, other.output),
            tokens: of(self.tokens, other.tokens),
            nano_usd: of(self.nano_usd, other.nano_usd),
        }
    }

    pub fn holds(&self, need: Need) -> bool {
        need.input_tokens <= self.input
            && need.output_tokens <= self.output
            && need.input_tokens.saturating_add(need.output_tokens) <= self.tokens
            && need.nano_usd <= self.nano_usd
    }
}
