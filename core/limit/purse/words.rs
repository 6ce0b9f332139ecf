//! What a budget says to callers and in traces. Decides nothing.

use std::time::{Duration, SystemTime};

use super::{Purse, usd};
use crate::{
    config::{Budget, Per},
    error::{Error, Kind},
    limit::{budget::Short, denial},
};

impl Purse {
    pub(super) fn whose(&self) -> String {
        denial::whose(&self.scope, &self.name)
    }

    /// For the trace of a request.
    pub fn soft_note(&self, budget: &Budget) -> String {
        let part = budget.soft.unwrap_or(0) / 10_000;
        format!("{} has spent more than {part} % of {} ({} USD)", self.whose(), self.word(), usd(self.most(budget)))
    }

    fn word(&self) -> &'static str {
        match self.per {
            Per::Day => "today's budget",
            Per::Week => "this week's budget",
            Per::Month => "this month's budget",
            Per::Total => "the budget",
        }
    }

    /// For whom no block is leased here: a store that is shared has counted.
    pub fn exceeded(&self, budget: &Budget, now: SystemTime, short: Short) -> Error {
        let word = self.word();
        let (whose, usd) = (self.whose(), usd(self.most(budget)));
        if short == Short::Held {
            let message =
                format!("requests under way hold what is left of {word} of {whose} ({usd} USD); try again shortly");
            return Error::new(Kind::BudgetExceeded, message).retry_after(Duration::from_secs(1));
        }
        let spent = format!("{word} of {whose} ({usd} USD) is spent, or less is left than this request may cost");
        match self.window.end {
            Some(end) => {
                let seconds = end.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
                let message = format!("{spent}; it starts anew at {}", crate::auth::expiry::show(seconds));
                Error::new(Kind::BudgetExceeded, message).retry_after(self.window.ends_in(now).unwrap_or_default())
            }
            None => Error::new(Kind::BudgetExceeded, format!("{spent}; ask the gateway's operator for more")),
        }
    }
}
