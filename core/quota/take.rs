//! Before an attempt: all that it may use of every quota that binds it, or nothing and when to come back. After it: what it used,
//! and what the provider said. A value that is dropped without a word counts as used whole.

use std::{sync::Arc, time::Duration};

use super::{
    KeyGate, Quotas, View,
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
    /// Those whose closing it was to find out about, by their places: a bit each.
    probes: u8,
    gates: Gates<Arc<Gate>>,
    /// Of the gates' meters, in their order; fewer than those where it got no further.
    holds: Vec<Hold>,
    shared: Option<Claimed>,
    quotas: Arc<Quotas>,
}

/// All that bind an attempt: its target's, its key's, and its key's for this model.
type Gates<G> = [Option<G>; 3];

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
    /// The right to one attempt at the view's moment, as far as nobody has to be waited for: no block of the store's, and no other
    /// gateway. `None`: `take` is to be asked instead, and nothing is held. Otherwise as it.
    pub fn take_at_once(
        self: &Arc<Self>,
        View { registry, now }: &View,
        at: At<'_>,
        key: Option<usize>,
        need: &mut impl FnMut() -> Need,
    ) -> Option<Result<Option<Taken>, Refused>> {
        if self.desk.is_some() {
            return None;
        }
        let now = *now;
        let gates = registry.gates(at, key);
        let binding = || gates.iter().enumerate().filter_map(|(n, gate)| Some((n > 0, gate.as_ref()?)));
        let (mut count, mut measured) = (None, false);
        for (_, gate) in binding() {
            count = Some(count.unwrap_or(0) + gate.meters.len());
            measured |= gate.meters.iter().any(|meter| meter.unit != Unit::Requests);
        }
        let Some(count) = count else { return Some(Ok(None)) };
        let mut taken = Taken::of(self, gates.map(Option::<&Arc<Gate>>::cloned));
        taken.holds.reserve_exact(count);
        if let Err(refused) = taken.enter(|| now) {
            return Some(Err(refused));
        }
        if count == 0 {
            return Some(Ok((taken.probes != 0).then_some(taken)));
        }
        // Only who counts tokens or money has them estimated.
        let need = if measured { need() } else { Need::default() };
        let mut low = false;
        for (of_key, gate) in binding() {
            for meter in &*gate.meters {
                match meter.hold(amount(meter.unit, need), now) {
                    Ok((hold, near)) => {
                        low |= near;
                        taken.holds.push(hold);
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
        let gates = self.registry.load().gates(at, key).map(Option::<&Arc<Gate>>::cloned);
        if gates.iter().all(Option::is_none) {
            return Ok(None);
        }
        let mut taken = Taken::of(self, gates);
        taken.enter(|| self.now())?;
        let mut meters: Vec<(bool, Arc<Meter>)> = Vec::new();
        for (n, gate) in taken.gates.iter().enumerate() {
            meters.extend(gate.iter().flat_map(|gate| gate.meters.iter().map(|meter| (n > 0, meter.clone()))));
        }
        if meters.is_empty() {
            return Ok((taken.probes != 0).then_some(taken));
        }
        // Only who counts tokens or money has them estimated.
        let need = if meters.iter().all(|(_, meter)| meter.unit == Unit::Requests) { Need::default() } else { need() };
        let result = match &self.desk {
            Some(desk) => self.claim(desk, &meters, need).await.map(|claimed| taken.shared = Some(claimed)),
            None => self.hold(&meters, need, &mut taken.holds).await,
        };
        result.map(|()| Some(taken))
    }

    async fn hold(&self, meters: &[(bool, Arc<Meter>)], need: Need, holds: &mut Vec<Hold>) -> Result<(), Refused> {
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
                        holds.push(hold);
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

    fn of(quotas: &Arc<Quotas>, gates: Gates<Arc<Gate>>) -> Taken {
        Taken { attempt: 0, probes: 0, gates, holds: Vec::new(), shared: None, quotas: quotas.clone() }
    }

    /// All of its gates, or the first that is closed.
    fn enter(&mut self, now: impl Fn() -> Millis) -> Result<(), Refused> {
        for (n, gate) in self.gates.iter().enumerate() {
            let Some(gate) = gate else { continue };
            match gate.enter(now()) {
                Pass::Open => {}
                Pass::Probe => self.probes |= 1 << n,
                Pass::Closed(wait) => {
                    return Err(Refused { wait, key: n > 0, away: false, unpaid: gate.is_unpaid() });
                }
            }
        }
        Ok(())
    }

    /// What it holds, with whose it is.
    fn held(&self) -> impl Iterator<Item = (&Arc<Meter>, Hold)> {
        self.gates.iter().flatten().flat_map(|gate| gate.meters.iter()).zip(self.holds.iter().copied())
    }

    fn probed(&self) -> impl Iterator<Item = &Arc<Gate>> {
        self.gates.iter().enumerate().filter(|(n, _)| self.probes & 1 << n != 0).filter_map(|(_, gate)| gate.as_ref())
    }

    /// The provider has answered, so its window is open; `open`: and it has not told to wait.
    fn answered(&self, open: bool) {
        let now = || self.quotas.now();
        self.held().for_each(|(meter, hold)| meter.answered(hold, now));
        if let Some(claimed) = &self.shared {
            claimed.answered(now());
        }
        if open && self.probes != 0 {
            self.probed().for_each(|gate| gate.opened());
            self.quotas.wanted.notify_one();
        }
    }

    /// It never reached the provider: all of it is there again.
    pub fn release(mut self) {
        self.give_up();
    }

    fn give_up(&mut self) {
        self.probed().for_each(|gate| gate.unproven());
        self.held().for_each(|(meter, hold)| meter.release(hold));
        self.forget();
        if let Some(claimed) = self.shared.take() {
            claimed.settle(|_, _| 0);
        }
    }

    /// Nothing is held any more.
    fn forget(&mut self) {
        self.probes = 0;
        self.holds.clear();
    }

    /// What the attempt used. `None`: nobody knows, and what was reserved counts.
    pub fn settle(mut self, used: Option<Need>) {
        self.end(used);
    }

    fn end(&mut self, used: Option<Need>) {
        let now = || self.quotas.now();
        let of = |unit: Unit, held: u64| match used {
            _ if unit == Unit::Requests => held,
            Some(used) => amount(unit, used),
            None => held,
        };
        // A probe that was answered has opened its gate long since.
        self.probed().for_each(|gate| gate.unproven());
        self.held().for_each(|(meter, hold)| meter.settle(hold, of(meter.unit, hold.amount), now));
        self.forget();
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
    fn gates<'r>(&'r self, at: At<'r>, key: Option<usize>) -> Gates<&'r Arc<Gate>> {
        let (own, keys) = self.seats.find(at);
        let mut gates = [own, None, None];
        let Some((keys, print)) = keys.zip(key.and_then(|index| at.provider.fingerprint(index))) else { return gates };
        // No key has two for the same model.
        let mine = keys.iter().filter(|key| key.fits(print, at.model)).map(|key| &key.gate);
        gates[1..].iter_mut().zip(mine).for_each(|(place, gate)| *place = Some(gate));
        gates
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
