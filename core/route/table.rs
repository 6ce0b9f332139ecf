//! Names to plans: aliases, `provider/model`, bare names that one provider claims, and `mock`. Built once from a
//! configuration; only a small memory of targets that callers named themselves changes afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dashmap::DashMap;

use super::{
    AtHand, Group, Limits, Passed, Plan, Target, Timeouts,
    policy::{DATA_POLICY, lawful},
    price::PriceList,
    rehearsed::Rehearsed,
    split::Experiment,
    sticky,
};
use crate::{
    auth::{Principal, wildcard},
    codec::ModelCard,
    config::{self, Concurrency, Config, Handling, Problem, UnknownPrice},
    error::{Error, Kind, Result},
    provider::{self, Provider},
};

#[derive(Debug)]
pub struct Table {
    pub(super) providers: BTreeMap<Arc<str>, Arc<Provider>>,
    aliases: BTreeMap<Arc<str>, Alias>,
    prices: Arc<PriceList>,
    /// Of targets that have a bound, by their names.
    concurrency: BTreeMap<String, Concurrency>,
    /// A target without a price is not used.
    priced_only: bool,
    /// What aliases state of a target in one voice: it holds under its own name, too.
    stated: BTreeMap<Arc<str>, Option<Handling>>,
    /// `provider/model` names that callers used.
    pub(super) named: DashMap<Box<str>, Arc<Target>>,
    /// `None` but in a rehearsal.
    pub(super) rehearsed: Option<Rehearsed>,
    /// An alias draws by who asks.
    pub(super) sticks: bool,
}

#[derive(Debug)]
pub(super) struct Alias {
    pub(super) group: Group,
    experiment: Option<Arc<Experiment>>,
    failover: Vec<String>,
    terms: Terms,
}

/// What an alias states for its targets, and for the names that it fails over to directly.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Terms {
    timeouts: config::Timeouts,
    retries: Option<u32>,
    strict: bool,
    care: Option<Arc<config::Care>>,
}

/// What a name turned out to be.
pub(super) enum Found<'a> {
    Alias(&'a Alias),
    Target(Arc<Target>),
}

impl Table {
    /// Every problem at once.
    pub fn build(config: &Config) -> Result<Table, Vec<Problem>> {
        let mut problems = Vec::new();
        let providers = providers(config, &mut problems);
        let prices = Arc::new(PriceList::build(config, &mut problems));
        let priced_only = config.unknown_price == UnknownPrice::Refuse;
        let (aliases, stated, named) = (BTreeMap::new(), BTreeMap::new(), DashMap::new());
        let concurrency = config.concurrency.clone();
        let mut table = Table {
            providers,
            aliases,
            prices,
            concurrency,
            priced_only,
            stated,
            named,
            rehearsed: None,
            sticks: false,
        };
        for (name, alias) in &config.models {
            let listed = alias.targets.iter().filter_map(|t| table.listed(name, alias, t, config, &mut problems));
            // What is named twice is visited once.
            let mut names = BTreeSet::new();
            let targets = listed.filter(|target: &Arc<Target>| names.insert(target.name.clone())).collect();
            let (strategy, sticky, warm_up) = (alias.strategy, alias.sticky, alias.warm_up);
            let group = Group { strategy, sticky, warm_up, targets };
            let terms = Terms::of(alias);
            let experiment = Experiment::of(name, alias, terms.clone());
            table.sticks |= experiment.as_ref().is_some_and(|e| e.sticks());
            let alias = Alias { group, experiment, failover: alias.failover.clone(), terms };
            for target in &alias.group.targets {
                let known = table.stated.entry(target.name.clone());
                let said = known.or_insert_with(|| Some(target.handling.clone()));
                *said = said.take().filter(|said| *said == target.handling);
            }
            table.aliases.insert(name.as_str().into(), alias);
        }
        for (name, alias) in &table.aliases {
            let care = alias.terms.care.as_deref();
            let of = |list: fn(&config::Care) -> &Vec<String>| care.map(list).into_iter().flatten();
            let failover = alias.failover.iter().map(|next| ("failover", next));
            let longer = of(|care| &care.context_failover).map(|next| ("context_failover", next));
            let content = of(|care| &care.content_failover).map(|next| ("content_failover", next));
            for (key, next) in failover.chain(longer).chain(content) {
                if table.aliases.contains_key(next.as_str()) {
                    continue;
                }
                // A provider without a key is no mistake of the file's.
                match table.find(next, alias.terms.clone()) {
                    Err(e) if e.code() != NOT_CONFIGURED => {
                        problems.push(problem(config, &format!("models.{name}.{key}"), &e.message));
                    }
                    _ => {}
                }
            }
        }
        if problems.is_empty() { Ok(table) } else { Err(problems) }
    }

    pub fn providers(&self) -> impl Iterator<Item = &Arc<Provider>> {
        self.providers.values()
    }

    pub fn provider(&self, name: &str) -> Option<&Arc<Provider>> {
        self.providers.get(name)
    }

    /// For what names its model only afterwards.
    pub fn prices(&self) -> Arc<PriceList> {
        self.prices.clone()
    }

    pub fn aliases(&self) -> impl Iterator<Item = &Arc<str>> {
        self.aliases.keys()
    }

    /// All that the configuration names.
    pub fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.aliases.values().flat_map(|alias| &alias.group.targets)
    }

    /// What a name stands for, whoever asks.
    pub fn resolve(&self, name: &str) -> Result<Plan> {
        self.resolve_for(name, None)
    }

    /// For a caller only what satisfies the data policies that bind it.
    pub fn resolve_for(&self, name: &str, caller: Option<&Principal>) -> Result<Plan> {
        let mut plan = Plan::default();
        if let Some(own) = self.rehearsed.as_ref().and_then(|r| r.stand_for(name)) {
            plan.collect(&Group::listed(own.to_vec()), |target| lawful(target, caller));
        } else {
            match self.find(name, Terms::default())? {
                Found::Target(target) => {
                    self.usable(&target, caller)?;
                    plan.push(Group::listed(vec![target]));
                }
                Found::Alias(alias) => {
                    plan.experiment.clone_from(&alias.experiment);
                    self.expand(alias, caller, &mut plan);
                }
            }
        }
        if plan.is_empty() { Err(nothing_ready(name, &plan)) } else { Ok(plan) }
    }

    /// The same for a caller: 403 when the name is not theirs to use.
    pub fn plan(&self, name: &str, principal: &Principal) -> Result<Plan> {
        // Before it is looked up, so that a caller cannot try out which names exist.
        if !self.permits(name, principal) {
            return Err(forbidden(name, principal));
        }
        self.resolve_for(name, Some(principal))
    }

    /// The targets that aliases list at this provider, each once.
    pub fn listed_at(&self, provider: &str) -> Vec<Arc<Target>> {
        let all = self.aliases.values().flat_map(|alias| &alias.group.targets);
        let own: BTreeMap<_, _> = all.filter(|t| *t.provider.name == *provider).map(|t| (&t.name, t)).collect();
        own.into_values().cloned().collect()
    }

    /// What an alias names for one cause of failure, its own targets of it only; what cannot be used is left out.
    pub fn lent(&self, names: &[String], caller: &Principal) -> Plan {
        let mut plan = Plan::default();
        for name in names {
            match self.find(name, Terms::default()) {
                Ok(Found::Alias(alias)) => self.ready(&alias.group, Some(caller), &mut plan),
                Ok(Found::Target(target)) => self.ready(&Group::listed(vec![target]), Some(caller), &mut plan),
                Err(e) => plan.passed.push(Passed::new(name, &e)),
            }
        }
        plan
    }

    /// Names that stages returned, in their order. A name that the caller may not use, or that nothing stands behind, is
    /// an error: a policy that points nowhere must be seen.
    pub fn resolve_list<S: AsRef<str>>(&self, names: &[S], principal: &Principal) -> Result<Plan> {
        let mut whole = Plan::default();
        let mut last = None;
        for name in names.iter().map(AsRef::as_ref) {
            match self.plan(name, principal) {
                Ok(mut plan) => {
                    if whole.is_empty() {
                        whole.experiment = plan.experiment.take();
                    }
                    let behind = whole.groups.len();
                    whole.forks.extend(plan.forks.drain(..).map(|(at, fork)| (at + behind, fork)));
                    whole.groups.append(&mut plan.groups);
                    whole.passed.append(&mut plan.passed);
                }
                Err(e) if [NOT_CONFIGURED, UNPRICED, DATA_POLICY].contains(&e.code()) || e.kind == Kind::NoTarget => {
                    whole.passed.push(Passed::new(name, &e));
                    last = Some(e);
                }
                Err(e) => return Err(e),
            }
        }
        match last {
            Some(e) if whole.is_empty() => Err(e),
            _ if whole.is_empty() => {
                Err(Error::new(Kind::NoTarget, "the route policy left no target for this request"))
            }
            _ => Ok(whole),
        }
    }

    /// Aliases, targets that they name, and the built-in provider, as far as the caller may use them and they can answer.
    pub fn models(&self, principal: &Principal) -> Vec<ModelCard> {
        let mut cards = BTreeMap::new();
        for (name, alias) in &self.aliases {
            let mut plan = Plan::default();
            self.expand(alias, Some(principal), &mut plan);
            self.all_arms(Some(principal), &mut plan);
            let Some(first) = plan.targets().next() else { continue };
            cards.insert(name.clone(), card(name, OWNER, first));
            for target in plan.targets() {
                cards.entry(target.name.clone()).or_insert_with(|| card(&target.name, &target.provider.name, target));
            }
        }
        if let Ok(Found::Target(mock)) = self.find(MOCK, Terms::default()) {
            cards.entry(MOCK.into()).or_insert_with(|| card(MOCK, MOCK, &mock));
        }
        cards.into_values().filter(|c| self.permits(&c.id, principal)).collect()
    }

    /// One line of the list; `None` when the name stands for nothing or is not the caller's.
    pub fn model(&self, name: &str, principal: &Principal) -> Option<ModelCard> {
        let mut plan = self.plan(name, principal).ok()?;
        self.all_arms(Some(principal), &mut plan);
        let first = plan.targets().next()?;
        let owner = if self.aliases.contains_key(name) { OWNER } else { &first.provider.name };
        Some(card(name, owner, first))
    }

    /// Each of the caller's lists must name it, by the name that was asked for or by the `provider/model` it stands for.
    pub fn permits(&self, name: &str, principal: &Principal) -> bool {
        if principal.models.is_empty() {
            return true;
        }
        let full = match self.find(name, Terms::default()) {
            Ok(Found::Target(target)) => Some(target.name.clone()),
            _ => None,
        };
        let named = |p: &String| wildcard(p, name) || full.as_deref().is_some_and(|f| wildcard(p, f));
        principal.models.iter().all(|list| list.models.iter().any(named))
    }

    fn expand(&self, alias: &Alias, caller: Option<&Principal>, plan: &mut Plan) {
        self.lend(alias, caller, plan);
        for next in &alias.failover {
            match self.find(next, alias.terms.clone()) {
                // Aliases expand once: another alias lends its targets, not its own failover.
                Ok(Found::Alias(other)) => self.lend(other, caller, plan),
                Ok(Found::Target(target)) => self.ready(&Group::listed(vec![target]), caller, plan),
                Err(e) => plan.passed.push(Passed::new(next, &e)),
            }
        }
    }

    /// An alias's targets, behind the arm that is drawn where it has a split.
    fn lend(&self, alias: &Alias, caller: Option<&Principal>, plan: &mut Plan) {
        if let Some(experiment) = alias.experiment.as_ref().filter(|e| e.split.is_some()) {
            plan.forks.push((plan.groups.len(), experiment.clone()));
        }
        self.ready(&alias.group, caller, plan);
    }

    /// The group's usable targets; the others are noted.
    pub(super) fn ready(&self, group: &Group, caller: Option<&Principal>, plan: &mut Plan) {
        plan.collect(group, |target| self.usable(target, caller));
    }

    fn usable(&self, target: &Target, caller: Option<&Principal>) -> Result<()> {
        if !target.provider.ready() {
            return Err(target.provider.not_configured());
        }
        // What names no model is priced afterwards, if at all.
        if self.priced_only && target.rates.is_none() && &*target.model != "*" {
            return Err(unpriced(&target.name));
        }
        lawful(target, caller)
    }

    pub(super) fn find(&self, name: &str, terms: Terms) -> Result<Found<'_>> {
        provider::url::check_model(name)?;
        if let Some(alias) = self.aliases.get(name) {
            return Ok(Found::Alias(alias));
        }
        if name == MOCK
            && let Some(provider) = self.providers.get(MOCK)
        {
            return Ok(Found::Target(self.target(provider, MOCK, terms)));
        }
        if terms == Terms::default()
            && let Some(known) = self.named.get(name)
        {
            return Ok(Found::Target(known.clone()));
        }
        if let Some(own) = self.rehearsed.as_ref().and_then(|r| r.own(name)) {
            return Ok(Found::Target(own));
        }
        if let Some((head, model)) = name.split_once('/') {
            if let Some(provider) = self.providers.get(head) {
                provider::url::check_model(model)?;
                return Ok(Found::Target(self.target(provider, model, terms)));
            }
            if let Some(row) = provider::row(head).filter(|_| self.rehearsed.is_none()) {
                return Err(unconfigured_row(row));
            }
        }
        let found = self.claimed(name, terms);
        if found.is_err() && self.rehearsed.is_some() { Ok(Found::Target(self.stand_in(name))) } else { found }
    }

    /// A bare name goes to the one provider that claims it.
    fn claimed(&self, name: &str, terms: Terms) -> Result<Found<'_>> {
        let claims: Vec<_> =
            self.providers.values().filter(|p| p.models.iter().any(|m| name.starts_with(m.as_str()))).collect();
        let ready: Vec<_> = claims.iter().filter(|p| p.ready()).collect();
        match (ready.as_slice(), claims.as_slice()) {
            ([one], _) => Ok(Found::Target(self.target(one, name, terms))),
            ([], [one]) => Err(one.not_configured()),
            ([], []) => Err(self.unknown(name)),
            ([], several) => Err(ambiguous(name, several.iter().map(|p| &*p.name), "none of them has a key")),
            (several, _) => Err(ambiguous(name, several.iter().map(|p| &*p.name), "say which")),
        }
    }

    fn unknown(&self, name: &str) -> Error {
        let home = provider::catalog::rows().iter().find(|r| r.models.iter().any(|m| name.starts_with(m)));
        if let Some(row) = home {
            return unconfigured_row(row);
        }
        let known = self.aliases.keys().map(|a| &**a).chain([MOCK]);
        let hint = match provider::nearest(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => self.forms(),
        };
        let message = format!("no model is called `{}`; {hint}", shown(name));
        Error::new(Kind::ModelNotFound, message).at("model")
    }

    fn forms(&self) -> String {
        let ready: Vec<_> =
            self.providers.values().filter(|p| p.ready()).map(|p| format!("`{}/<model>`", p.name)).collect();
        let aliases: Vec<_> = self.aliases.keys().take(8).map(|a| format!("`{a}`")).collect();
        let mut all = aliases;
        all.extend(ready.into_iter().take(8));
        format!("use {}", all.join(", "))
    }

    fn target(&self, provider: &Arc<Provider>, model: &str, terms: Terms) -> Arc<Target> {
        // A target of an alias's failover has the alias's terms, so it is not the one that callers share.
        let shared = terms == Terms::default();
        let name = format!("{}/{model}", provider.name);
        if shared && let Some(known) = self.named.get(name.as_str()) {
            return known.clone();
        }
        let mut target = self.make(provider, model, 1, terms);
        if let Some(Some(handling)) = self.stated.get(name.as_str()) {
            target.handling = handling.clone();
        }
        let target = Arc::new(target);
        if shared && self.named.len() < MOST_NAMED {
            self.named.insert(name.into_boxed_str(), target.clone());
        }
        target
    }

    fn listed(
        &self,
        alias: &str,
        of: &config::Alias,
        target: &config::Target,
        config: &Config,
        problems: &mut Vec<Problem>,
    ) -> Option<Arc<Target>> {
        let at = format!("models.{alias}.targets");
        if let Err(e) = provider::url::check_model(&target.model) {
            problems.push(problem(config, &at, &e.message));
            return None;
        }
        if let Some(provider) = self.providers.get(target.provider.as_str()) {
            let mut made = self.make(provider, &target.model, target.weight, Terms::of(of));
            made.handling = target.handling.or(&made.handling);
            made.check = target.health;
            return Some(Arc::new(made));
        }
        let known = self.providers.keys().map(|k| &**k);
        let hint = match (provider::row(&target.provider), provider::nearest(&target.provider, known)) {
            (Some(_), _) => format!("add [providers.{}]", target.provider),
            (None, Some(near)) => format!("did you mean \"{near}\"?"),
            (None, None) => format!("add [providers.{}] with base_url and format", target.provider),
        };
        let why = format!("no provider is called \"{}\"; {hint}", target.provider);
        problems.push(problem(config, &at, why));
        None
    }
}

impl Table {
    fn make(&self, provider: &Arc<Provider>, model: &str, weight: u32, terms: Terms) -> Target {
        self.make_as(format!("{}/{model}", provider.name), provider, model, weight, terms)
    }

    pub(super) fn make_as(
        &self,
        name: String,
        provider: &Arc<Provider>,
        model: &str,
        weight: u32,
        terms: Terms,
    ) -> Target {
        let limits = Limits::of(provider.capability(model), self.prices.known(provider, model));
        let rates = self.prices.find(&name, provider, model);
        Target {
            at_hand: AtHand::new(sticky::lot(&name), weight, &limits, rates.as_deref()),
            limits,
            handling: provider.handling.clone(),
            urls: Default::default(),
            concurrency: self.concurrency.get(&name).copied(),
            places: Default::default(),
            check: None,
            rates,
            name: name.into(),
            dialect: limits.complete(provider.dialect(model)),
            model: model.into(),
            timeouts: Timeouts::resolve(&[terms.timeouts, provider.timeouts]),
            retries: terms.retries,
            strict: terms.strict,
            care: terms.care,
            provider: provider.clone(),
        }
    }
}

impl Terms {
    fn of(alias: &config::Alias) -> Terms {
        Terms {
            timeouts: alias.timeouts,
            retries: alias.retries,
            strict: alias.strict,
            care: (alias.care != config::Care::default()).then(|| Arc::new(alias.care.clone())),
        }
    }
}

fn providers(config: &Config, problems: &mut Vec<Problem>) -> BTreeMap<Arc<str>, Arc<Provider>> {
    let mut out = BTreeMap::new();
    for wanted in &config.providers {
        match Provider::resolve(wanted.clone()) {
            Ok(p) if is_self(&p, config) => {
                let why = "base_url is this gateway's own address; give its real one";
                problems.push(problem(config, &format!("providers.{}", p.name), why));
            }
            Ok(p) => {
                out.insert(p.name.clone(), Arc::new(p));
            }
            Err(why) => problems.push(problem(config, &format!("providers.{}", wanted.name), why)),
        }
    }
    out.entry(MOCK.into()).or_insert_with(|| Arc::new(Provider::mock()));
    out
}

/// Would requests to it come back here, for ever?
fn is_self(provider: &Provider, config: &Config) -> bool {
    let listen = config.server.listen;
    let host = provider.base.host();
    provider.transport == provider::Transport::Http
        && provider.base.port() == listen.port()
        && listen.port() != 0
        && (host == listen.ip().to_string() || (host == "localhost" && listen.ip().is_loopback()))
}

fn card(id: &str, owner: &str, target: &Target) -> ModelCard {
    ModelCard {
        id: id.to_owned(),
        owner: owner.to_owned(),
        created: 0,
        context_window: target.limits.context,
        max_output: target.limits.output,
    }
}

/// At the key's own line.
fn problem(config: &Config, key: &str, why: impl std::fmt::Display) -> Problem {
    config.problem(key, format!("{key}: {why}"))
}

fn unconfigured_row(row: &provider::Row) -> Error {
    let name = row.name;
    let names: String = row.wants().iter().map(|name| format!("`{name}`, ")).collect();
    let why = match row.env {
        Some(env) => format!("add [providers.{name}] with {names}`key = \"env:{env}\"` to gateway.toml and set {env}"),
        None => format!("add [providers.{name}] to gateway.toml"),
    };
    provider::not_configured(name, &why)
}

fn ambiguous<'a>(name: &str, providers: impl Iterator<Item = &'a str>, why: &str) -> Error {
    let forms: Vec<_> = providers.map(|p| format!("`{p}/{name}`")).collect();
    let message = format!("several providers claim `{name}`, {why}: {}", forms.join(" or "));
    Error::new(Kind::ModelNotFound, message).at("model")
}

fn nothing_ready(name: &str, plan: &Plan) -> Error {
    let why: Vec<_> = plan.passed.iter().map(|passed| &*passed.reason).collect();
    let mut why: Vec<_> = why.into_iter().take(4).collect();
    why.dedup();
    let message = format!("no target of `{name}` can be used: {}", why.join("; "));
    match plan.passed.iter().any(|passed| passed.code == DATA_POLICY) {
        true => Error::new(Kind::Forbidden, message).with_code(DATA_POLICY).at("model"),
        false => Error::new(Kind::NoTarget, message).at("model"),
    }
}

impl Plan {
    /// A group's usable targets; the others are noted.
    fn collect(&mut self, group: &Group, usable: impl Fn(&Target) -> Result<()>) {
        let mut targets = Vec::with_capacity(group.targets.len());
        for target in &group.targets {
            match usable(target) {
                Ok(()) => targets.push(target.clone()),
                Err(why) => self.passed.push(Passed::new(&target.name, &why)),
            }
        }
        self.push(group.with(targets));
    }

    fn push(&mut self, group: Group) {
        if !group.targets.is_empty() {
            self.groups.push(group);
        }
    }
}

fn unpriced(name: &str) -> Error {
    let message = format!(
        "nobody has a price for `{name}`, and catalogue.unknown_price refuses such models: ask for another one; whoever runs \
         this gateway can state its price in [[pricing]]"
    );
    Error::new(Kind::Forbidden, message).with_code(UNPRICED).at("model")
}

fn forbidden(name: &str, principal: &Principal) -> Error {
    let mut whose = match &principal.team {
        Some(team) => format!("this key or its team `{team}`"),
        None => "this key".to_owned(),
    };
    for (kind, name) in [("user", &principal.user), ("organisation", &principal.organisation)] {
        if let Some(name) = name.as_ref().filter(|_| principal.models_of(kind).is_some()) {
            whose.push_str(&format!(" or its {kind} `{name}`"));
        }
    }
    let message = format!("{whose} may not use model `{}`; GET /v1/models lists what it may use", shown(name));
    Error::new(Kind::Forbidden, message).with_code("model_not_allowed").at("model")
}

/// A caller's word in a message: not longer than it needs to be.
fn shown(name: &str) -> String {
    if name.chars().count() <= 80 {
        name.to_owned()
    } else {
        format!("{}…", name.chars().take(80).collect::<String>())
    }
}

const MOCK: &str = "mock";
const OWNER: &str = "portcullis";
const UNPRICED: &str = "price_unknown";
const NOT_CONFIGURED: &str = "provider_not_configured";
/// Names made up by callers are not remembered without end.
const MOST_NAMED: usize = 2048;
