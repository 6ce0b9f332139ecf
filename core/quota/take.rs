//! Before an attempt: all that it may use of every quota that binds it, or nothing and when to come back. After it: what it used,
//! and what the provider said. A value that is dropped without a word counts as used whole.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    KeyGate, Quotas,
    frame::Millis,
    gate::{Gate, Pass, Told},
    meter::{Hold, Lack, Meter},
    seat::Slot,
    shared::Claimed,
};
use crate::{
    clock,
    config::Unit,
    error::{Error, Kind},
    limit::Need,
    provider::Provider,
};

/// A target, as far as quotas know it.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// `provider/model`.
    pub name: &'a Arc<str>,
    pub provider: &'a Provider,
    pub model: &'a str,
    /// Where it remembers its places.
    pub slot: &'a Slot,
}

/// What one attempt holds.
#[derive(Debug)]
pub struct Taken {
    /// Its number in the request; 0: it was not sent yet, and what is dropped then is given back.
    attempt: u32,
    held: Vec<(Arc<Meter>, Hold)>,
    shared: Option<Claimed>,
    /// Those whose closing it was to find out about.
    probes: Vec<Arc<Gate>>,
    quotas: Arc<Quotas>,
}

/// Nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub wait: Duration,
    /// The key is in the way, not the target: another one may do.
    pub key: bool,
    /// The store did not answer in time.
    pub away: bool,
    /// The provider said that the account has nothing left.
    pub unpaid: bool,
}

impl Quotas {
    /// The right to one attempt at `now`, as far as nobody has to be waited for: no block of the store's, and no other gateway.
    /// `None`: `take` is to be asked instead, and nothing is held. Otherwise as it.
    pub fn take_at_once(
        self: &Arc<Self>,
        at: At<'_>,
        key: Option<usize>,
        now: Instant,
        need: &mut impl FnMut() -> Need,
    ) -> Option<Result<Option<Taken>, Refused>> {
        if self.is_idle() {
            return Some(Ok(None));
        }
        if self.desk.is_some() {
            return None;
        }
        let (registry, now) = (self.registry.load(), self.pace.now(now));
        let (own, keys) = registry.gates(at, key);
        let gates = || own.map(|gate| (false, gate)).into_iter().chain(keys.clone().map(|gate| (true, gate)));
        let (mut count, mut measured) = (None, false);
        for (_, gate) in gates() {
            count = Some(count.unwrap_or(0) + gate.meters.len());
            measured |= gate.meters.iter().any(|meter| meter.unit != Unit::Requests);
        }
        let Some(count) = count else { return Some(Ok(None)) };
        let (held, probes) = (Vec::with_capacity(count), Vec::new());
        let mut taken = Taken { attempt: 0, held, shared: None, probes, quotas: self.clone() };
        for (of_key, gate) in gates() {
            match gate.enter(now) {
                Pass::Open => {}
                Pass::Probe => taken.probes.push(gate.clone()),
                Pass::Closed(wait) => {
                    return Some(Err(Refused { wait, key: of_key, away: false, unpaid: gate.is_unpaid() }));
                }
            }
        }
        if count == 0 {
            return Some(Ok((!taken.probes.is_empty()).then_some(taken)));
        }
        // Only who counts tokens or money has them estimated.
        let need = if measured { need() } else { Need::default() };
        let mut low = false;
        for (of_key, gate) in gates() {
            for meter in &*gate.meters {
                match meter.hold(amount(meter.unit, need), now) {
                    Ok((hold, near)) => {
                        low |= near;
                        taken.held.push((meter.clone(), hold));
                    }
                    Err(Lack::Block) => return None,
                    Err(Lack::Closed(wait)) => return Some(Err(Refused::of(wait, of_key))),
                    Err(Lack::Held) => return Some(Err(Refused::of(SOON, of_key))),
                }
            }
        }
        if low && self.store.is_some() {
            self.wanted.notify_one();
        }
        Some(Ok(Some(taken)))
    }

    /// The right to one attempt, with a key of the provider's. `None`: nothing binds it.
    pub async fn take(
        self: &Arc<Self>,
        at: At<'_>,
        key: Option<usize>,
        need: impl FnOnce() -> Need,
    ) -> Result<Option<Taken>, Refused> {
        if self.is_idle() {
            return Ok(None);
        }
        let gates: [Vec<Arc<Gate>>; 2] = {
            let registry = self.registry.load();
            let (own, keys) = registry.gates(at, key);
            [own.cloned().into_iter().collect(), keys.cloned().collect()]
        };
        if gates.iter().all(Vec::is_empty) {
            return Ok(None);
        }
        let mut taken = Taken { attempt: 0, held: Vec::new(), shared: None, probes: Vec::new(), quotas: self.clone() };
        for (of_key, gates) in gates.iter().enumerate() {
            for gate in gates {
                match gate.enter(self.now()) {
                    Pass::Open => {}
                    Pass::Probe => taken.probes.push(gate.clone()),
                    Pass::Closed(wait) => {
                        return Err(Refused { wait, key: of_key == 1, away: false, unpaid: gate.is_unpaid() });
                    }
                }
            }
        }
        let mut meters: Vec<(bool, Arc<Meter>)> = Vec::new();
        for (of_key, gates) in gates.iter().enumerate() {
            meters.extend(gates.iter().flat_map(|gate| gate.meters.iter().map(|meter| (of_key == 1, meter.clone()))));
        }
        if meters.is_empty() {
            return Ok((!taken.probes.is_empty()).then_some(taken));
        }
        // Only who counts tokens or money has them estimated.
        let need = if meters.iter().all(|(_, meter)| meter.unit == Unit::Requests) { Need::default() } else { need() };
        let result = match &self.desk {
            Some(desk) => self.claim(desk, &meters, need).await.map(|claimed| taken.shared = Some(claimed)),
            None => self.hold(&meters, need, &mut taken.held).await,
        };
        result.map(|()| Some(taken))
    }

    async fn hold(
        &self,
        meters: &[(bool, Arc<Meter>)],
        need: Need,
        held: &mut Vec<(Arc<Meter>, Hold)>,
    ) -> Result<(), Refused> {
        let until = clock::now() + PATIENCE;
        for (of_key, meter) in meters {
            let amount = amount(meter.unit, need);
            loop {
                let granted = meter.granted.notified();
                tokio::pin!(granted);
                // From here on no grant is missed.
                granted.as_mut().enable();
                match meter.hold(amount, self.now()) {
                    Ok((hold, low)) => {
                        held.push((meter.clone(), hold));
                        if self.store.is_some() && low {
                            self.wanted.notify_one();
                        }
                        break;
                    }
                    Err(Lack::Closed(wait)) => return Err(Refused::of(wait, *of_key)),
                    Err(Lack::Held) => return Err(Refused::of(SOON, *of_key)),
                    Err(Lack::Block) if self.store.is_none() => meter.grant_all(),
                    Err(Lack::Block) => {
                        self.wanted.notify_one();
                        if clock::timeout_at(until, granted).await.is_err() {
                            return Err(Refused { wait: SOON, key: *of_key, away: true, unpaid: false });
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// What came of an attempt, for those who count and those who wait. Costs nothing where there is nothing to know.
    pub fn heard(&self, at: At<'_>, key: Option<usize>, taken: Option<&Taken>, error: Option<&Error>) {
        let refused = error.filter(|error| error.kind == Kind::UpstreamRateLimited && error.upstream.is_some());
        if let Some(taken) = taken {
            let heard = error.is_none_or(|error| error.upstream.is_some());
            if heard {
                taken.answered(refused.is_none());
            }
        }
        let Some(refused) = refused else { return };
        // A refusal that says nothing of its end is a moment's; money that is gone is not.
        let told = refused.retry_after.is_some_and(|wait| !wait.is_zero());
        if told || (refused.retry_after.is_none() && refused.code() == "insufficient_quota") {
            self.close(at, key, refused.retry_after);
        }
    }

    /// The provider said to wait: with a key of several that key does, for this model, else the target. Without a time it is
    /// closed for a while that doubles. Says for how long.
    fn close(&self, at: At<'_>, key: Option<usize>, wait: Option<Duration>) -> Duration {
        let told = wait.map(Told::of);
        let print = key.filter(|_| at.provider.keys() > 1).and_then(|index| at.provider.fingerprint(index));
        let now = self.now();
        let gate = self.gate(match print {
            None => Place::Target(at.name),
            Some(print) => Place::Key(&at.provider.name, print, Some(at.model)),
        });
        let until = gate.close(told, now);
        if told.is_some_and(|told| told.absurd) {
            let said = wait.unwrap_or_default();
            tracing::warn!(target = %at.name, ?said, "a provider named a time that nobody should believe: it is asked again within the hour");
        }
        self.wanted.notify_one();
        Duration::from_millis(until.saturating_sub(now))
    }

    /// A closing that the store knows, by its name there.
    pub(super) fn hear(&self, name: &str, until: Millis, now: Millis) {
        let mut words = name.split('\0');
        let gate = match words.next() {
            Some("target") => words.next().map(|target| self.gate(Place::Target(target))),
            Some("key") => (|| {
                let (provider, print) = (words.next()?, words.next()?);
                let print = u128::from_str_radix(print, 16).ok()?.to_be_bytes();
                let model = words.next().filter(|model| !model.is_empty());
                Some(self.gate(Place::Key(provider, print, model)))
            })(),
            _ => None,
        };
        if let Some(gate) = gate {
            gate.heard(Some(until), now);
        }
    }

    /// That of an owner, made where there is none.
    fn gate(&self, place: Place<'_>) -> Arc<Gate> {
        let known = |registry: &super::Registry| match place {
            Place::Target(name) => registry.targets.get(name).cloned(),
            Place::Key(provider, print, model) => {
                let mut keys = registry.keys.get(provider)?.iter();
                keys.find(|key| key.print == print && key.model.as_deref() == model).map(|key| key.gate.clone())
            }
        };
        if let Some(gate) = known(&self.registry.load()) {
            return gate;
        }
        let now = self.now();
        self.change(|registry| {
            if let Some(gate) = known(registry) {
                return gate;
            }
            registry.make_room(now);
            let gate = Arc::new(Gate::new(Arc::default()));
            match place {
                Place::Target(name) => drop(registry.targets.insert(name.into(), gate.clone())),
                Place::Key(provider, print, model) => registry.keys.entry(provider.into()).or_default().push(KeyGate {
                    print,
                    model: model.map(Into::into),
                    gate: gate.clone(),
                }),
            }
            gate
        })
    }
}

/// Whose gate.
#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    Target(&'a str),
    Key(&'a str, [u8; 16], Option<&'a str>),
}

impl Taken {
    /// It is sent as this attempt of its request.
    pub fn sent(mut self, attempt: u32) -> Taken {
        self.attempt = attempt;
        self
    }

    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The provider has answered, so its window is open; `open`: and it has not told to wait.
    fn answered(&self, open: bool) {
        let now = self.quotas.now();
        self.held.iter().for_each(|(meter, hold)| meter.answered(*hold, now));
        if let Some(claimed) = &self.shared {
            claimed.answered(now);
        }
        if open && !self.probes.is_empty() {
            self.probes.iter().for_each(|gate| gate.opened());
            self.quotas.wanted.notify_one();
        }
    }

    /// It never reached the provider: all of it is there again.
    pub fn release(mut self) {
        self.give_up();
    }

    fn give_up(&mut self) {
        self.probes.drain(..).for_each(|gate| gate.unproven());
        self.held.drain(..).for_each(|(meter, hold)| meter.release(hold));
        if let Some(claimed) = self.shared.take() {
            claimed.settle(|_, _| 0);
        }
    }

    /// What the attempt used. `None`: nobody knows, and what was reserved counts.
    pub fn settle(mut self, used: Option<Need>) {
        self.end(used);
    }

    fn end(&mut self, used: Option<Need>) {
        let now = self.quotas.now();
        let of = |unit: Unit, held: u64| match used {
            _ if unit == Unit::Requests => held,
            Some(used) => amount(unit, used),
            None => held,
        };
        // A probe that was answered has opened its gate long since.
        self.probes.drain(..).for_each(|gate| gate.unproven());
        for (meter, hold) in self.held.drain(..) {
            meter.settle(hold, of(meter.unit, hold.amount), now);
        }
        if let Some(claimed) = self.shared.take() {
            claimed.settle(of);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.attempt == 0 { self.give_up() } else { self.end(None) }
    }
}

impl Refused {
    fn of(wait: Duration, key: bool) -> Refused {
        Refused { wait, key, away: false, unpaid: false }
    }
}

impl super::Registry {
    /// That of the target, and those of the key.
    fn gates<'r>(
        &'r self,
        at: At<'r>,
        key: Option<usize>,
    ) -> (Option<&'r Arc<Gate>>, impl Iterator<Item = &'r Arc<Gate>> + Clone) {
        let (own, keys) = self.seats.find(at);
        let print = key.and_then(|index| at.provider.fingerprint(index));
        let keys = keys.zip(print).into_iter().flat_map(move |(keys, print)| {
            keys.iter().filter(move |key| key.fits(print, at.model)).map(|key| &key.gate)
        });
        (own, keys)
    }

    /// Names can be callers' words: what is open and has no quota goes first.
    fn make_room(&mut self, now: Millis) {
        if self.targets.len() + self.keys.values().map(Vec::len).sum::<usize>() < MOST {
            return;
        }
        let idle = |gate: &Gate| gate.meters.is_empty() && gate.until().is_none_or(|until| until <= now);
        self.targets.retain(|_, gate| !idle(gate));
        self.keys.values_mut().for_each(|keys| keys.retain(|key| !idle(&key.gate)));
        if self.targets.len() >= MOST {
            self.targets.retain(|_, gate| !gate.meters.is_empty());
        }
    }
}

/// Of a unit.
pub(super) fn amount(unit: Unit, need: Need) -> u64 {
    match unit {
        Unit::Requests => 1,
        Unit::InputTokens => need.input_tokens,
        Unit::OutputTokens => need.output_tokens,
        Unit::Tokens => need.input_tokens.saturating_add(need.output_tokens),
        Unit::Usd => need.nano_usd,
    }
}

/// How long an attempt waits for a block.
const PATIENCE: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(1);
const MOST: usize = 4096;
