//! Quotas that several gateways count together. When a window begins is agreed in the store's table: who opens one writes its
//! row on the condition that nobody else has, and the others take that row up. What is used is counted by the shared store's
//! sums, which a gateway that is killed leaves as they were reserved.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use super::{
    Quotas, Refused,
    frame::{Frame, Millis, Phase},
    keeper::{key, parse, row},
    meter::{Meter, Written},
    take::amount,
};
use crate::{
    config::{Every, Unit},
    limit::{
        Need,
        shared::{Answer, Claim, Counted, Counter, Desk, Id, Item, Settled, Shared, Want, Why},
        window::Window,
    },
    store::{Op, Store, Table},
};

/// What an attempt has of shared counters.
#[derive(Debug)]
pub struct Claimed {
    id: Id,
    engine: Arc<dyn Shared>,
    held: Vec<(Arc<Meter>, Counter, u64)>,
    /// Meters whose window this attempt opened.
    opened: Vec<Arc<Meter>>,
}

impl Quotas {
    pub(super) async fn claim(
        &self,
        desk: &Arc<Desk>,
        meters: &[(bool, Arc<Meter>)],
        need: Need,
    ) -> Result<Claimed, Refused> {
        let away = |key: bool| Refused { wait: SOON, key, away: true, unpaid: false };
        let mut claimed =
            Claimed { id: desk.id(), engine: desk.engine().clone(), held: Vec::new(), opened: Vec::new() };
        let mut wants = Vec::with_capacity(meters.len());
        for (of_key, meter) in meters {
            let now = self.now();
            let frame = match meter.frame(now) {
                Some(frame) => frame,
                None => {
                    let Some(store) = &self.store else { return Err(away(*of_key)) };
                    let opening = open(&**store, meter, now);
                    let Ok(Ok((frame, mine))) = tokio::time::timeout(PATIENCE, opening).await else {
                        return Err(away(*of_key));
                    };
                    if mine {
                        claimed.opened.push(meter.clone());
                    }
                    meter.observe(Some(frame), 0);
                    frame
                }
            };
            if let Phase::Between(until) = frame.phase(now) {
                let wait = Duration::from_millis(until.saturating_sub(now));
                return Err(Refused { wait, key: *of_key, away: false, unpaid: false });
            }
            let counter = counter(meter, &frame);
            let (bound, wants_now) = (meter.bound(), amount(meter.unit, need));
            claimed.held.push((meter.clone(), counter.clone(), wants_now));
            wants.push(Want { counter, bound, has: 0, wants: wants_now, shadow: false });
        }
        let claim = Claim { id: claimed.id, lease: desk.lease(), wants };
        match claimed.engine.take(&claim).await {
            Ok(Answer::Granted(left)) => {
                for ((meter, ..), left) in claimed.held.iter().zip(left) {
                    meter.observe(meter.frame(self.now()), meter.bound().saturating_sub(left.left));
                }
                Ok(claimed)
            }
            Ok(Answer::Refused { at, why }) => {
                let (key, meter) = meters.get(at).map_or((false, None), |(key, meter)| (*key, Some(meter)));
                let now = self.now();
                let returns = meter.and_then(|meter| meter.frame(now)).map(|frame| frame.returns());
                let until_then = returns.map(|at| Duration::from_millis(at.saturating_sub(now)));
                let wait = match why {
                    Why::Wait(wait) => until_then.unwrap_or(wait),
                    _ => until_then.unwrap_or(SOON),
                };
                Err(Refused { wait, key, away: false, unpaid: false })
            }
            Err(down) => {
                tracing::debug!(why = down.0, "quotas cannot be counted together");
                Err(away(false))
            }
        }
    }

    /// Windows and sums as the store has them, a moment old: for whoever looks.
    pub(super) async fn watch(&self, meters: &[Arc<Meter>]) {
        let (Some(store), Some(counters)) = (&self.store, self.store.as_ref().and_then(|store| store.counters()))
        else {
            return;
        };
        for meter in meters.iter().take(MOST_WATCHED) {
            let now = self.now();
            // It is away, for all of them.
            let Ok(read) = store.read(Table::Quotas, &key(&meter.whose, meter)).await else { return };
            let frame = read.as_deref().and_then(parse).map(|row| row.frame).filter(|f| f.phase(now) != Phase::Past);
            let used = match &frame {
                None => 0,
                Some(frame) => {
                    let counter =
                        crate::limit::fleet::counter(&counter(meter, frame), UNIX_EPOCH + Duration::from_millis(now));
                    let Ok(standing) = counters.look(&counter).await else { return };
                    standing.used
                }
            };
            meter.observe(frame, used);
        }
    }
}

impl Claimed {
    /// The window that this attempt opened is open at the provider, too.
    pub fn answered(&self, now: Millis) {
        for meter in &self.opened {
            if let (Every::Use(_), Some(mut frame)) = (&meter.every, meter.frame(now)) {
                frame.answered(&meter.every, now);
                meter.reframe(frame);
            }
        }
    }

    /// `used`: of a unit, and of what was taken of it.
    pub fn settle(self, used: impl Fn(Unit, u64) -> u64) {
        let items =
            self.held.into_iter().map(|(meter, counter, had)| Item { used: used(meter.unit, had), counter, had });
        self.engine.settle(Settled { id: self.id, items: items.collect() });
    }
}

/// The window that is open for all: the one that stands in the store, or a new one; `true`: it was opened here.
async fn open(store: &dyn Store, meter: &Meter, now: Millis) -> anyhow::Result<(Frame, bool)> {
    let key = key(&meter.whose, meter);
    for _ in 0..TRIES {
        let stands = store.read(Table::Quotas, &key).await?;
        let known = stands.as_deref().and_then(parse).map(|row| row.frame);
        if let Some(frame) = known.filter(|frame| frame.phase(now) != Phase::Past) {
            return Ok((frame, false));
        }
        let frame = Frame::of(&meter.every, now);
        let fresh = row(&Written { frame, ceiling: 0, open: true, unanswered: true });
        let expected = Op { table: Table::Quotas, key: key.clone(), value: stands };
        if store.write_if(vec![expected], vec![Op::put(Table::Quotas, key.clone(), fresh)]).await? {
            return Ok((frame, true));
        }
    }
    anyhow::bail!("others open the same window again and again")
}

fn counter(meter: &Meter, frame: &Frame) -> Counter {
    let at = |millis: Millis| UNIX_EPOCH + Duration::from_millis(millis);
    // The name holds the window's kind as well: another one counts for itself.
    let id = format!("{}:{}", meter.every.name(), frame.start);
    let window = Window { id, start: at(frame.start), end: Some(at(frame.over)) };
    Counter { scope: meter.whose.clone(), counted: Counted::Quota(meter.unit), window: Some(window) }
}

const PATIENCE: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(1);
const TRIES: usize = 5;
/// In one look.
const MOST_WATCHED: usize = 500;
