//! May they now: the permit without which nothing reaches an upstream. This form counts requests in flight; rates,
//! tokens and money join it in `enter` and `reserve`.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    auth::Principal,
    error::Result,
    telemetry::{InFlight, metrics},
};

/// Who spends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A caller with a key.
    Client,
    /// Probes and the gateway's own calls.
    System,
}

/// The right to call upstreams for one request. Made only here; dropping it gives the place back.
pub struct Permit {
    class: Class,
    in_flight: Arc<AtomicU64>,
    _gauge: InFlight,
}

/// The right to one attempt: borrowed from the request's permit, so it cannot outlive it.
pub struct Reserved<'a> {
    permit: &'a Permit,
}

/// What lives across reloads.
#[derive(Debug, Default)]
pub struct Limits {
    in_flight: Arc<AtomicU64>,
}

impl Limits {
    /// Before the body is read: rate, in-flight, priority, shedding.
    pub fn enter(&self, _principal: &Principal) -> Result<Permit> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Permit { class: Class::Client, in_flight: self.in_flight.clone(), _gauge: metrics().enter() })
    }

    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

impl Permit {
    /// Before each attempt: tokens and money for this target.
    pub fn reserve(&self) -> Result<Reserved<'_>> {
        Ok(Reserved { permit: self })
    }
}

impl Reserved<'_> {
    pub fn class(&self) -> Class {
        self.permit.class
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
