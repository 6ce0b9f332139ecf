//! Why a target stands where it stands, as a value that costs nothing to make, and in words for who asks.

use std::{sync::Arc, time::Duration};

use super::{Standing, Target};
use crate::{
    config::{Sticky, Strategy},
    context::Rank,
};

/// A target in its place.
#[derive(Debug, Clone)]
pub struct Ranked {
    pub target: Arc<Target>,
    pub strategy: Strategy,
    pub why: Why,
    /// It is the one that a session or a key keeps to.
    pub stuck: Option<Sticky>,
    /// It warms up, and this request is not of its share: of one.
    pub held_back: Option<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Why {
    /// In the order written.
    Listed,
    /// `true`: its lot was drawn.
    Weight(bool),
    /// Seconds that it is expected to take, and calls under way.
    Latency(Option<f32>, u64, Lot),
    Busy(u64),
    /// Nano-dollars that this request is expected to cost.
    Cost(Option<f32>),
    Quota(Option<Standing>),
    /// Its quota is used up.
    Closed(Option<Duration>),
    Ejected,
}

/// Of two that are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lot {
    Better,
    Worse,
    NotDrawn,
}

impl Ranked {
    /// For the trace of an explained request.
    pub fn told(&self) -> Rank {
        let mut why = self.why.words(self.target.at_hand.weight);
        if let Some(sticky) = self.stuck {
            let whose = match sticky {
                Sticky::Session => "session",
                Sticky::Key => "key",
            };
            why = format!("this {whose} keeps to it; {why}");
        }
        if let Some(share) = self.held_back {
            why = format!("it warms up, with {:.0} % of its share now: not this request; {why}", share * 100.0);
        }
        Rank { target: self.target.name.clone(), strategy: self.strategy.name(), why }
    }

    /// Is there more to say than that it was written so?
    pub fn says(&self) -> bool {
        self.why != Why::Listed || self.stuck.is_some() || self.held_back.is_some()
    }
}

impl Why {
    fn words(self, weight: u32) -> String {
        match self {
            Why::Listed => "in the order written".to_owned(),
            Why::Weight(true) => format!("drawn by its weight, {weight}"),
            Why::Weight(false) => format!("stands by, weight {weight}"),
            Why::Latency(expected, in_flight, lot) => {
                let time =
                    expected.map_or("not measured yet".to_owned(), |s| format!("expected to take {}", seconds(s)));
                let lot = match lot {
                    Lot::Better => "the better of two drawn",
                    Lot::Worse => "the worse of two drawn",
                    Lot::NotDrawn => "not drawn",
                };
                format!("{time}, {in_flight} in flight; {lot}")
            }
            Why::Busy(in_flight) => format!("{in_flight} in flight"),
            Why::Cost(Some(nano)) => format!("about {:.9} USD for this request", nano / 1e9),
            Why::Cost(None) => "nobody knows its price".to_owned(),
            Why::Quota(None) => "it has no quota".to_owned(),
            Why::Quota(Some(Standing { share_left, resets_in, .. })) => {
                let left = format!("{:.0} % of its quota left", share_left * 100.0);
                match resets_in {
                    Some(time) => format!("{left}, new in {} s", time.as_secs()),
                    None => left,
                }
            }
            Why::Closed(Some(time)) => format!("its quota is used up, new in {} s", time.as_secs()),
            Why::Closed(None) => "its quota is used up".to_owned(),
            Why::Ejected => "it rests after failures".to_owned(),
        }
    }
}

fn seconds(time: f32) -> String {
    if time < 1.0 { format!("{:.0} ms", time * 1e3) } else { format!("{time:.1} s") }
}
