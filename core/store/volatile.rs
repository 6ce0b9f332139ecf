//! Values that several gateways share and may lose at any time: by name, each with its end, within a bound of bytes together.
//! Plain data in and out; what the values mean is not known here. Never for what must be there.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Result;

/// An engine that keeps them.
pub trait Volatile: Send + Sync {
    /// The value, if it is there, and the mark of this moment. No answer within `patience` is an error.
    fn read<'a>(&'a self, name: &'a str, patience: Duration) -> BoxFuture<'a, Result<Read>>;

    fn put<'a>(&'a self, put: Put<'a>) -> BoxFuture<'a, Result<Placed>>;

    /// One value, if it is there.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>>;

    /// All whose names begin so, for everybody; what was asked for before comes to nothing.
    fn empty<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Emptied>>;

    /// How often anything was emptied, by whoever.
    fn mark(&self) -> BoxFuture<'_, Result<u64>>;
}

#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    pub value: Option<Vec<u8>>,
    pub mark: u64,
}

/// A value to keep.
#[derive(Debug, Clone, Copy)]
pub struct Put<'a> {
    pub name: &'a str,
    pub value: &'a [u8],
    pub keep: Duration,
    /// As it was when the value was asked for: what was emptied since then stays empty.
    pub mark: u64,
    /// Bytes of all values: the oldest make room.
    pub bound: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// With the bytes of all values now.
    Kept { evicted: u64, bytes: u64 },
    /// Something was emptied meanwhile.
    Emptied,
    /// The engine has no room to spare.
    NoRoom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emptied {
    pub removed: u64,
    pub mark: u64,
    pub bytes: u64,
}
