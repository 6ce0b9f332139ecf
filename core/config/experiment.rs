//! `models.NAME.split` and `models.NAME.mirror`, resolved: what is tried beside what an alias usually does. Plain values.

use std::time::Duration;

/// Requests are shared out among arms.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    pub by: SplitBy,
    /// Two at least, names unlike, not all of weight 0.
    pub arms: Vec<Arm>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    pub name: String,
    /// An alias or `provider/model`.
    pub to: String,
    pub weight: u32,
}

/// What keeps to the arm that it met first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SplitBy {
    /// Nothing: each request draws for itself.
    Request,
    #[default]
    Session,
    Key,
    User,
}

/// A share of requests is sent to somebody else, too, and nobody waits for what comes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// An alias or `provider/model`.
    pub to: String,
    /// Above 0, at most 1.
    pub share: f64,
    /// Copies under way at one time; more are left out.
    pub concurrent: usize,
    /// Each has so long.
    pub timeout: Duration,
    /// At the caller's expense.
    pub charge: bool,
}

impl SplitBy {
    pub const fn name(self) -> &'static str {
        match self {
            SplitBy::Request => "request",
            SplitBy::Session => "session",
            SplitBy::Key => "key",
            SplitBy::User => "user",
        }
    }
}

/// The arm of an alias without a split, beside its mirror.
pub const LIVE: &str = "live";
/// Where copies are counted.
pub const MIRROR: &str = "mirror";
