//! What the server's clock should show, by what it showed last and by how long that is ago here: so that a clock that somebody
//! sets is told from time that passed. Reads no clock of the wall.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

#[derive(Debug, Default)]
pub(super) struct Time(Mutex<Option<Seen>>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Milliseconds, as the server says them.
    showed: u64,
    /// When it was asked.
    asked: Instant,
}

impl Time {
    /// Milliseconds; 0: nobody has asked yet.
    pub fn expected(&self, now: Instant) -> u64 {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.map_or(0, |Seen { showed, asked }| {
            let passed = now.saturating_duration_since(asked).as_millis();
            showed.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
        })
    }

    /// So it answered to who asked then. An answer that was overtaken says nothing.
    pub fn showed(&self, showed: Option<u64>, asked: Instant) {
        let Some(showed) = showed else { return };
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_none_or(|seen| seen.asked <= asked) {
            *seen = Some(Seen { showed, asked });
        }
    }
}
