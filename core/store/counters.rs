//! Counters that several gateways share: what limits and budgets count by, in plain data. An engine takes all of a claim or
//! nothing, in one step for everybody and by its own clock; what is counted and what a refusal means is not known here.

use std::{fmt, time::Duration};

use futures_util::future::BoxFuture;

use super::Result;

/// An engine that counts for several gateways.
pub trait Counters: fmt::Debug + Send + Sync {
    /// Takes all that is wanted, or nothing.
    fn take<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<Outcome>>;

    /// What became of claims. `number`: of this batch among those of one `sender`, counted upwards from 1; a batch that comes
    /// twice counts once.
    fn settle<'a>(&'a self, sender: &'a str, number: u64, settled: &'a [Settled]) -> BoxFuture<'a, Result<()>>;

    /// Keeps what is held by these ids for another lease.
    fn renew<'a>(&'a self, held: &'a [Held], lease: Duration) -> BoxFuture<'a, Result<()>>;

    /// How a counter stands.
    fn look<'a>(&'a self, counter: &'a Counter) -> BoxFuture<'a, Result<Standing>>;

    /// How many gateways live, this one among them.
    fn gateways(&self) -> u64;
}

/// Of a claim; unique among all gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub u128);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// How a counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// A bucket that drains; it knows no ids.
    Bucket,
    /// A sum in a window; it knows no ids.
    Sum,
    /// Places, held by id.
    Places,
    /// Spent, and held by id.
    Money,
}

impl Form {
    /// Held by id, until it is settled or its lease ends.
    pub fn has_lease(self) -> bool {
        matches!(self, Form::Places | Form::Money)
    }
}

/// One counter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Counter {
    /// With its window; no two have the same.
    pub name: String,
    pub form: Form,
    /// Seconds after which nobody asks for it any more; `None`: never.
    pub keep: Option<u64>,
}

/// What one request wants before an attempt; with wants of nothing, to look.
#[derive(Debug, Clone)]
pub struct Claim {
    pub id: Id,
    /// Places and money that nobody settles or renews come back after it.
    pub lease: Duration,
    pub wants: Vec<Want>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    pub counter: Counter,
    /// Units a minute or in the window, places, nano-dollars.
    pub bound: u64,
    /// Of a bucket and a sum, which know no ids: what the claim took before.
    pub has: u64,
    /// What it is to have.
    pub wants: u64,
    /// What does not fit is not taken, and is in nobody's way.
    pub shadow: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// One for each want.
    Taken(Vec<Left>),
    /// Nothing was taken. `at`: the first want in the way.
    Refused { at: usize, why: Why },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub left: u64,
    /// Of a bucket: until it is empty again.
    pub full_after: Duration,
    /// A shadow took nothing.
    pub denied: Option<Why>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Of a bucket: it fits after this time.
    Wait(Duration),
    /// More than ever fits.
    TooMuch,
    /// A sum or places: the bound is reached.
    Reached,
    /// Money: what is left is held by others.
    Held,
    /// Money: it is spent, or less is left than this needs.
    Spent,
}

/// What became of one claim at one counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    pub id: Id,
    pub counter: Counter,
    pub had: u64,
    /// `None`: nothing came of it, if it was taken at all.
    pub used: Option<u64>,
}

/// What one id holds at a counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub id: Id,
    pub counter: Counter,
}

/// How a counter stands: a bucket's level (units times the milliseconds of a minute), a sum, places held, or money.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    pub used: u64,
    /// Of money alone.
    pub reserved: u64,
}
