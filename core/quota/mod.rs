//! What providers grant: quotas of targets and keys in windows, and targets and keys that their provider closed for a while.
//! Whether a target is open, what is left and when it returns is read without a lock; an attempt reserves before it is sent
//! and is settled by what it used. It knows no callers and chooses no target.

mod frame;
mod gate;
mod keeper;
mod meter;
mod room;
mod seat;
mod shared;
mod shown;
mod take;
mod view;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use self::{
    frame::{Millis, Pace},
    gate::{Gate, Pass},
    meter::{Meter, Meters},
    seat::Seats,
    shown::Reading,
    view::key_name,
};
use crate::{
    clock,
    config::{self, Quota, Scope, Unit},
    limit::shared::Desk,
    provider::Provider,
    store::Store,
};

pub use self::{
    room::Room,
    seat::Slot,
    take::{At, Refused, Taken},
    view::Row,
};

/// Whether a target may be asked now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlook {
    pub open: bool,
    /// Requests, or, where only other things are counted, what is left of the tightest. `u64::MAX` without a quota.
    pub left: u64,
    /// The part of the tightest quota that is left: 0 to 1.
    pub share: f64,
    /// Until it opens again, or until all of the tightest quota is there again; `None`: all of it is there.
    pub resets_in: Option<Duration>,
    /// How long the window of the tightest quota lasts that is open, or would be opened.
    pub lasts: Option<Duration>,
    /// The provider said that the account has nothing left.
    pub unpaid: bool,
}

/// The same as far as a choice among many targets asks for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Brief {
    /// It may be asked; what is left nobody asked for, or it has no quota.
    Open,
    /// It may be asked: the part that is left, and until when all of it is there again.
    Left(f32, Option<Duration>),
    /// `look` knows.
    Unsure,
}

/// State: it survives every reload.
pub struct Quotas {
    registry: ArcSwap<Registry>,
    /// Nothing is in the registry: nobody has to look.
    idle: AtomicBool,
    /// One writer at a time.
    writing: Mutex<()>,
    pace: Pace,
    store: Option<Arc<dyn Store>>,
    /// Who counts instead, where several gateways share a store.
    desk: Option<Arc<Desk>>,
    wanted: Arc<Notify>,
    /// The last write failed: said once.
    failing: AtomicBool,
}

#[derive(Default, Clone)]
struct Registry {
    /// By `provider/model`.
    targets: HashMap<Arc<str>, Arc<Gate>, foldhash::quality::RandomState>,
    /// By provider.
    keys: HashMap<Arc<str>, Vec<KeyGate>, foldhash::quality::RandomState>,
    /// The same for who looks at many of them.
    seats: Seats,
}

impl Registry {
    fn seated(mut self) -> Registry {
        self.seats = Seats::of(self.targets.iter(), self.keys.iter());
        self
    }
}

/// All quotas at one moment.
pub struct View {
    registry: arc_swap::Guard<Arc<Registry>>,
    now: Millis,
}

/// A provider's key, as a whole or for one model.
#[derive(Clone)]
struct KeyGate {
    print: [u8; 16],
    model: Option<Arc<str>>,
    gate: Arc<Gate>,
}

impl KeyGate {
    fn fits(&self, print: [u8; 16], model: &str) -> bool {
        self.print == print && self.model.as_deref().is_none_or(|own| own == model)
    }
}

impl Outlook {
    /// Of what has no quota.
    pub const FREE: Outlook =
        Outlook { open: true, left: u64::MAX, share: 1.0, resets_in: None, lasts: None, unpaid: false };
}

impl std::fmt::Debug for Quotas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Quotas")
    }
}

impl Default for Quotas {
    fn default() -> Self {
        Quotas::of(None, None, (Instant::now(), SystemTime::now()))
    }
}

impl Quotas {
    /// `desk`: where several gateways count together.
    pub fn new(store: Arc<dyn Store>, desk: Option<Arc<Desk>>) -> Arc<Quotas> {
        Arc::new(Quotas::of(Some(store), desk, (clock::now(), clock::wall())))
    }

    /// Of a rehearsal: nothing is kept, and some targets have so much left.
    pub fn told<'a>(
        told: impl IntoIterator<Item = (&'a Arc<str>, u64, Option<Duration>)>,
        now: (Instant, SystemTime),
    ) -> Quotas {
        let quotas = Quotas::of(None, None, now);
        let mut registry = Registry::default();
        for (name, left, resets) in told {
            let every = config::Every::Use(resets.unwrap_or(A_DAY).max(Duration::from_secs(1)));
            let quota = Quota { unit: Unit::Requests, bound: left.max(1), every };
            let meter = Arc::new(Meter::new(Scope::Target(name.clone()), &quota, false));
            meter.suppose(left, resets.is_some(), quotas.pace.now(now.0));
            registry.targets.insert(name.clone(), Arc::new(Gate::new([meter].into())));
        }
        quotas.idle.store(registry.targets.is_empty(), Ordering::Relaxed);
        quotas.registry.store(Arc::new(registry.seated()));
        quotas
    }

    fn of(store: Option<Arc<dyn Store>>, desk: Option<Arc<Desk>>, (now, wall): (Instant, SystemTime)) -> Quotas {
        Quotas {
            registry: ArcSwap::default(),
            idle: true.into(),
            writing: Mutex::default(),
            pace: Pace::new(now, wall),
            store,
            desk,
            wanted: Arc::default(),
            failing: false.into(),
        }
    }

    /// Takes over what is configured: what was used stays used.
    pub fn configure<'p>(&self, quotas: &config::Quotas, providers: impl Iterator<Item = &'p Arc<Provider>>) {
        let kept = self.store.is_some();
        self.change(|registry| {
            let none: Meters = Arc::default();
            for (_, gate) in registry.targets.iter_mut().filter(|(name, _)| !quotas.targets.contains_key(*name)) {
                if !gate.meters.is_empty() {
                    *gate = Arc::new(gate.with(none.clone()));
                }
            }
            for (name, stated) in &quotas.targets {
                let old = registry.targets.get(name);
                let gate = fitted(old, &Scope::Target(name.clone()), stated, kept);
                registry.targets.insert(name.clone(), gate);
            }
            for provider in providers {
                let stated: &[Quota] = quotas.keys.get(&provider.name).map_or(&[], |stated| &**stated);
                let gates = registry.keys.entry(provider.name.clone()).or_default();
                let prints: Vec<[u8; 16]> = (0..provider.keys()).filter_map(|n| provider.fingerprint(n)).collect();
                // Of keys that are gone nobody asks any more; what was used of them stays in the store.
                gates.retain(|key| prints.contains(&key.print));
                for print in prints {
                    let at = gates.iter().position(|key| key.print == print && key.model.is_none());
                    let whose = Scope::ProviderKey(key_name(&provider.name, &print));
                    match at {
                        Some(at) => gates[at].gate = fitted(Some(&gates[at].gate), &whose, stated, kept),
                        None if stated.is_empty() => {}
                        None => gates.push(KeyGate { print, model: None, gate: fitted(None, &whose, stated, kept) }),
                    }
                }
            }
            registry.keys.retain(|_, gates| !gates.is_empty());
        });
        self.wanted.notify_one();
    }

    /// Is there nothing to be looked at, for anybody?
    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed)
    }

    /// May this target be asked now, how much is left, when does it return? Takes nothing and locks nothing.
    pub fn look(&self, at: At<'_>) -> Outlook {
        if self.is_idle() {
            return Outlook::FREE;
        }
        self.view(clock::now()).look(at)
    }

    /// How it stands, if it may not be asked now: told at a glance of most that may.
    pub fn closed(&self, at: At<'_>, now: Instant) -> Option<Outlook> {
        if self.is_idle() {
            return None;
        }
        let view = self.view(now);
        if view.brief(at.slot, false, &mut None) == Brief::Open {
            return None;
        }
        Some(view.look(at)).filter(|outlook| !outlook.open)
    }

    /// For who looks at many targets: one moment for all of them.
    pub fn view(&self, now: Instant) -> View {
        View { registry: self.registry.load(), now: self.pace.now(now) }
    }

    /// The same where there is something to look at; `None`: there is not.
    pub fn view_of_any(&self, now: Instant) -> Option<View> {
        (!self.is_idle()).then(|| self.view(now))
    }

    pub(crate) fn now(&self) -> Millis {
        self.pace.now(clock::now())
    }

    /// A new registry from the old one.
    fn change<T>(&self, how: impl FnOnce(&mut Registry) -> T) -> T {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut registry = Registry::clone(&self.registry.load());
        let result = how(&mut registry);
        self.idle.store(registry.targets.is_empty() && registry.keys.is_empty(), Ordering::Relaxed);
        self.registry.store(Arc::new(registry.seated()));
        result
    }
}

impl View {
    /// Of a target that remembers its places: what can be told at a glance. `closely`: also what is left. `last`: whose keys were
    /// looked at last, told by where they lie, and whether all were open.
    #[inline]
    pub fn brief(&self, slot: &Slot, closely: bool, last: &mut Option<(usize, bool)>) -> Brief {
        let Some((target, keys)) = self.registry.seats.known(slot) else { return Brief::Unsure };
        if let Some(keys) = keys {
            if closely {
                return Brief::Unsure;
            }
            let here = keys.as_ptr().addr();
            let open = match *last {
                Some((whose, open)) if whose == here => open,
                _ => keys.iter().all(|key| key.gate.brief(self.now, false) == Brief::Open),
            };
            *last = Some((here, open));
            if !open {
                return Brief::Unsure;
            }
        }
        target.map_or(Brief::Open, |gate| gate.brief(self.now, closely))
    }

    /// Until this one of its provider's keys may be used for a target again; `None`: it may be used now.
    pub fn key_rests(&self, at: At<'_>, index: usize) -> Option<Duration> {
        let (keys, print) = (self.registry.seats.find(at).1?, at.provider.fingerprint(index)?);
        let mut mine = keys.iter().filter(|key| key.fits(print, at.model));
        if mine.all(|key| key.gate.brief(self.now, false) == Brief::Open) {
            return None;
        }
        let outlook = of_key(keys, print, at.model, self.now);
        (!outlook.open).then(|| outlook.resets_in.unwrap_or(Duration::ZERO))
    }

    /// As `Quotas::look`.
    pub fn look(&self, at: At<'_>) -> Outlook {
        let (target, keys) = self.registry.seats.find(at);
        let own = target.map_or(Outlook::FREE, |gate| gate.outlook(self.now));
        match keys {
            Some(keys) => own.and(of_keys(keys, at, self.now)),
            None => own,
        }
    }
}

/// The gate of an owner whose quotas are these now.
fn fitted(old: Option<&Arc<Gate>>, whose: &Scope, stated: &[Quota], kept: bool) -> Arc<Gate> {
    let known = old.map(|gate| gate.meters.clone()).unwrap_or_default();
    let meters: Meters = stated
        .iter()
        .map(|quota| match known.iter().find(|meter| meter.unit == quota.unit && meter.every == quota.every) {
            Some(meter) => {
                meter.rebind(quota.bound);
                meter.clone()
            }
            None => Arc::new(Meter::new(whose.clone(), quota, kept)),
        })
        .collect();
    let same = known.len() == meters.len() && known.iter().zip(&*meters).all(|(a, b)| Arc::ptr_eq(a, b));
    match old {
        Some(old) if same => old.clone(),
        Some(old) => Arc::new(old.with(meters)),
        None => Arc::new(Gate::new(meters)),
    }
}

impl Gate {
    #[inline]
    fn brief(&self, now: Millis, closely: bool) -> Brief {
        if self.until().is_some() {
            return Brief::Unsure;
        }
        match &*self.meters {
            [] => Brief::Open,
            [only] => only.brief(now, closely),
            all if !closely && all.iter().all(|meter| meter.brief(now, false) == Brief::Open) => Brief::Open,
            _ => Brief::Unsure,
        }
    }

    fn outlook(&self, now: Millis) -> Outlook {
        let mut all = Outlook::FREE;
        let mut counts_requests = false;
        for meter in &*self.meters {
            all = all.tighter(Outlook::of(meter.read(now), now), meter.unit, &mut counts_requests);
        }
        match self.look(now) {
            Pass::Open | Pass::Probe => all,
            Pass::Closed(wait) => Outlook {
                open: false,
                left: 0,
                share: 0.0,
                resets_in: Some(if all.open { wait } else { wait.max(all.resets_in.unwrap_or(wait)) }),
                lasts: all.lasts,
                unpaid: self.is_unpaid(),
            },
        }
    }
}

impl Outlook {
    fn of(Reading { bound, left, returns, lasts, .. }: Reading, now: Millis) -> Outlook {
        Outlook {
            open: left > 0,
            left,
            share: left as f64 / bound.max(1) as f64,
            resets_in: returns.map(|at| Duration::from_millis(at.saturating_sub(now))),
            lasts,
            unpaid: false,
        }
    }

    /// Of two quotas that both bind.
    fn tighter(self, other: Outlook, unit: Unit, counts_requests: &mut bool) -> Outlook {
        let open = self.open && other.open;
        let (resets_in, share) = match (self.open, other.open) {
            // Both must be open again.
            (false, false) => (self.resets_in.max(other.resets_in), 0.0),
            (false, true) => (self.resets_in, 0.0),
            (true, false) => (other.resets_in, 0.0),
            (true, true) if other.share < self.share => (other.resets_in, other.share),
            (true, true) => (self.resets_in.or(other.resets_in), self.share),
        };
        let left = match (unit == Unit::Requests, *counts_requests) {
            _ if !open => 0,
            (true, true) => self.left.min(other.left),
            (true, false) => other.left,
            (false, true) => self.left,
            (false, false) if other.share <= self.share => other.left,
            (false, false) => self.left,
        };
        *counts_requests |= unit == Unit::Requests;
        let lasts = if other.share < self.share { other.lasts } else { self.lasts.or(other.lasts) };
        Outlook { open, left, share, resets_in, lasts, unpaid: self.unpaid || other.unpaid }
    }

    /// Of a target and of what its provider's keys allow.
    fn and(self, keys: Outlook) -> Outlook {
        self.tighter(keys, Unit::Requests, &mut (self.left != u64::MAX))
    }
}

/// One key is enough; what is left of all of them together.
fn of_keys(keys: &[KeyGate], at: At<'_>, now: Millis) -> Outlook {
    let mut all: Option<Outlook> = None;
    let count = at.provider.keys();
    for print in (0..count).filter_map(|n| at.provider.fingerprint(n)) {
        let one = of_key(keys, print, at.model, now);
        all = Some(match all {
            None => one,
            Some(all) => Outlook {
                open: all.open || one.open,
                left: all.left.saturating_add(one.left),
                share: all.share + one.share,
                resets_in: match (all.open, one.open) {
                    (true, false) => all.resets_in,
                    (false, true) => one.resets_in,
                    // The first that returns.
                    _ => all.resets_in.zip(one.resets_in).map(|(a, b)| a.min(b)),
                },
                lasts: all.lasts.or(one.lasts),
                unpaid: all.unpaid && one.unpaid,
            },
        });
    }
    all.map_or(Outlook::FREE, |all| Outlook { share: all.share / count.max(1) as f64, ..all })
}

fn of_key(keys: &[KeyGate], print: [u8; 16], model: &str, now: Millis) -> Outlook {
    let mine = keys.iter().filter(|key| key.fits(print, model));
    mine.fold(Outlook::FREE, |all, key| all.and(key.gate.outlook(now)))
}

const A_DAY: Duration = Duration::from_secs(86_400);
