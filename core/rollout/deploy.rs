//! The one who decides which version runs, and swaps: reloads, rollouts, returns to earlier versions. Everything here is done
//! by one at a time and may take as long as a compiler takes; no request waits for it. What was decided is written to the
//! history first, then done.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use serde_json::json;
use tokio::{runtime::Handle, sync::Notify};

use super::{Held, Rollout, Standing};
use crate::{
    aside::Inside,
    clock,
    config::{self, Content, Loaded, Place, Watched},
    error::{Error, Kind, Result},
    gateway::Gateway,
    provider,
    runtime::{Refused, Runtime},
    telemetry::{metrics as counts, names},
    versions::{By, Cause, Pin, Row, State, Versions, id, now},
};

pub struct Deploy {
    pub(super) gateway: Arc<Gateway>,
    pub(super) versions: Arc<Versions>,
    place: Place,
    pub(super) handle: Handle,
    pub(super) standing: Mutex<Standing>,
    /// What the files' own version wants to be watched.
    watched: ArcSwap<Watched>,
    pub(super) alarm: Arc<Notify>,
}

/// What came of a reload.
#[derive(Debug)]
pub enum Outcome {
    /// These files run already.
    Unchanged(u64),
    Live(u64),
    /// A rollout has begun, or is under way.
    Trying(u64),
    /// Another version is pinned over these files.
    Pinned(u64),
    /// These files were tried and taken back.
    Held(Held),
    Refused(Arc<Refused>),
}

impl Deploy {
    /// On the runtime it is called on. `standing`: as the start left it.
    pub fn new(gateway: Arc<Gateway>, place: Place, versions: Arc<Versions>, standing: Standing) -> Arc<Deploy> {
        let watched = gateway.runtime.load().config.watched();
        let deploy = Deploy {
            gateway,
            versions,
            place,
            handle: Handle::current(),
            standing: Mutex::new(standing),
            watched: ArcSwap::from_pointee(watched),
            alarm: Arc::default(),
        };
        deploy.publish(&deploy.lock());
        Arc::new(deploy)
    }

    /// The start found a version that was still being tried.
    pub fn resume(&self, number: u64, candidate: Arc<Runtime>) {
        let mut standing = self.lock();
        Inside::serve(&self.gateway, &candidate);
        self.watched.store(Arc::new(candidate.config.watched()));
        let rules = self.gateway.runtime.load().config.rollout.clone();
        match (rules, self.versions.row(number)) {
            (Some(rules), Some(row)) => {
                let state = first(&rules);
                self.handle.block_on(self.versions.change(number, |row| row.state = state));
                self.begin(&row, candidate, rules);
            }
            _ => self.go_live(&mut standing, number, candidate),
        }
        self.publish(&standing);
    }

    /// What has to be watched: for what runs, and for the files where they are another version.
    pub fn watched(&self) -> Watched {
        let mut all = self.gateway.runtime.load().config.watched();
        let own = self.watched.load();
        for (into, from) in [(&mut all.files, &own.files), (&mut all.folders, &own.folders), (&mut all.flat, &own.flat)]
        {
            into.extend(from.iter().filter(|path| !into.contains(path)).cloned().collect::<Vec<_>>());
        }
        all
    }

    /// Takes the files up as they are now.
    pub fn reload(&self, by: By) -> Outcome {
        let mut standing = self.lock();
        let outcome = self.take_up(&mut standing, by);
        self.publish(&standing);
        outcome
    }

    fn take_up(&self, standing: &mut Standing, by: By) -> Outcome {
        let mut loaded = self.load(None);
        let running = self.gateway.runtime.load();
        // A full disk and a save that broke off leave nothing; so does nobody who means to change something.
        if loaded.config.sources.own.trim().is_empty() && !running.config.sources.own.trim().is_empty() {
            let text = "is empty, as a save that broke off leaves it; what ran goes on";
            let empty = loaded.config.problem("", text);
            // One that is not there, or cannot be read, has been told.
            if loaded.problems.iter().all(|told| told.file != empty.file) {
                loaded.problems.push(empty);
            }
        }
        drop(running);
        let version = loaded.config.version.clone();
        if loaded.problems.is_empty() {
            let known = self.known(standing, &version);
            if let Some(known) = known {
                return self.refresh(standing, loaded, known, by);
            }
        }
        let content = Content::of(&loaded.config);
        let runtime = match self.build(loaded) {
            Ok(runtime) => runtime,
            Err(refused) => return self.refuse(refused),
        };
        self.end(State::Superseded, "newer files took its place", None);
        if let Some(pin) = standing.pin.take() {
            tracing::warn!(version = id(pin.version), "the files have changed: the pin is released");
            self.handle.block_on(self.versions.set_pin(None));
        }
        standing.held = None;
        standing.files = version;
        self.watched.store(Arc::new(runtime.config.watched()));
        let rules = self.gateway.runtime.load().config.rollout.clone();
        let state = rules.as_ref().map_or(State::Live, first);
        let row = self.handle.block_on(self.versions.add(&content, by, state));
        let outcome = match rules {
            None => {
                self.go_live(standing, row.number, runtime);
                Outcome::Live(row.number)
            }
            Some(rules) => {
                self.begin(&row, runtime, rules);
                Outcome::Trying(row.number)
            }
        };
        // Last: who sees no refusal any more meets what is new.
        self.gateway.state.refused.store(None);
        outcome
    }

    /// The files are a version that there is something to say about.
    fn known(&self, standing: &Standing, version: &str) -> Option<Known> {
        let tried = self.gateway.state.rollout.under_way();
        if version == standing.hash {
            return Some(Known::Running);
        }
        if let Some(rollout) = tried.filter(|rollout| rollout.hash == version) {
            return Some(Known::Tried(rollout));
        }
        if let Some(held) = standing.held.as_ref().filter(|held| held.hash == version) {
            return Some(Known::Held(held.clone()));
        }
        standing.pin.as_ref().filter(|pin| pin.files == version).map(|_| Known::Pinned)
    }

    /// Nothing new in the files; secrets and certificates may be.
    fn refresh(&self, standing: &mut Standing, loaded: Loaded, known: Known, by: By) -> Outcome {
        let differs = |config: &config::Config, running: &Runtime| config.hash != running.config.hash;
        let running = self.gateway.runtime.load_full();
        if let Known::Running = known {
            self.end(State::Superseded, "the files are the running version again", None);
            if let Some(pin) = standing.pin.take() {
                tracing::info!(version = id(pin.version), "the files are the pinned version now: the pin is released");
                self.handle.block_on(self.versions.set_pin(None));
            }
            standing.held = None;
            standing.files = standing.hash.clone();
            if differs(&loaded.config, &running) {
                match self.build(loaded) {
                    Ok(runtime) => self.swap(runtime),
                    Err(refused) => return self.refuse(refused),
                }
            }
            self.gateway.state.refused.store(None);
            self.sign(standing.version, by);
            return Outcome::Unchanged(standing.version);
        }
        let mut problem = None;
        if let Known::Tried(rollout) = &known
            && differs(&loaded.config, &rollout.candidate.load())
        {
            match self.build(loaded) {
                Ok(runtime) => rollout.candidate.store(runtime),
                Err(refused) => problem = Some(refused),
            }
        }
        // What runs is not what lies there: it is read from where it was kept.
        if let Some(kept) = self.kept(standing.version) {
            let loaded = self.load(Some(&kept));
            if differs(&loaded.config, &running) {
                match self.build(loaded) {
                    Ok(runtime) => self.swap(runtime),
                    Err(refused) => problem = Some(refused),
                }
            }
        }
        if let Some(refused) = problem {
            return self.refuse(refused);
        }
        self.gateway.state.refused.store(None);
        match known {
            Known::Tried(rollout) => {
                self.sign(rollout.number, by);
                Outcome::Trying(rollout.number)
            }
            Known::Held(held) => Outcome::Held(held),
            Known::Pinned | Known::Running => Outcome::Pinned(standing.version),
        }
    }

    /// Back to a version that was: at once, and pinned where the files are another.
    pub fn rollback(&self, text: &str, by: By) -> Result<Row> {
        let mut standing = self.lock();
        let row = self.versions.find(text)?;
        let same = row.hash == standing.hash;
        let mut runtime = None;
        if !same {
            let content = self.versions.content(&row)?;
            let loaded = self.load(Some(&content));
            runtime = Some(self.build(loaded).map_err(|refused| cannot_run(row.number, &refused))?);
        }
        let files = self.load(None).config.version;
        self.end(State::Aborted, &format!("rolled back to {}", id(row.number)), None);
        let number = match runtime {
            None => standing.version,
            Some(runtime) => {
                let row = self.handle.block_on(self.versions.again(&row, by.clone(), State::Live));
                self.go_live(&mut standing, row.number, runtime);
                row.number
            }
        };
        let pin = (files != row.hash).then(|| Pin {
            version: number,
            files: files.clone(),
            since: now(SystemTime::now()),
            author: by.author.clone(),
            note: by.note.clone(),
        });
        self.handle.block_on(self.versions.set_pin(pin.clone()));
        standing.held = None;
        standing.files = files;
        standing.pin = pin;
        let pinned = standing.pin.is_some();
        tracing::warn!(to = id(row.number), version = id(number), author = by.author, pinned, "rolled back");
        self.publish(&standing);
        self.versions.row(number).ok_or_else(|| Error::new(Kind::Internal, "the version is gone already"))
    }

    /// The files run again, by the usual way.
    pub fn unpin(&self, by: By) -> Result<Outcome> {
        let mut standing = self.lock();
        let Some(pin) = standing.pin.take() else {
            return Err(conflict(
                "not_pinned",
                "no version is pinned: the files run, or /api/v1/config/status says why not",
            ));
        };
        let outcome = self.take_up(&mut standing, by);
        if let Outcome::Refused(_) = outcome {
            standing.pin = Some(pin);
        } else {
            self.handle.block_on(self.versions.set_pin(None));
        }
        self.publish(&standing);
        Ok(outcome)
    }

    pub(super) fn go_live(&self, standing: &mut Standing, number: u64, runtime: Arc<Runtime>) {
        self.handle.block_on(self.versions.went_live(number));
        let before = json!({ "version": id(standing.version), "hash": standing.hash });
        self.tell("config.live", number, before, None);
        (standing.version, standing.hash) = (number, runtime.config.version.clone());
        // Before anybody meets it: who does, and asks which version that was, is told.
        self.publish(standing);
        self.swap(runtime);
    }

    fn build(&self, mut loaded: Loaded) -> Result<Arc<Runtime>, Refused> {
        let state = &self.gateway.state;
        let (secrets, running) = (&loaded.config.secrets, self.gateway.runtime.load());
        // A master key that opens nothing would be found out at the next start only.
        if secrets.master != running.config.secrets.master
            && let Err(error) = self.handle.block_on(state.secrets.ring().accepts(secrets))
        {
            loaded.problems.push(loaded.config.problem("secrets.master_key", error.message.clone()));
        }
        let runtime = Arc::new(Runtime::of(loaded, &state.scripts, &state.plugins)?);
        Inside::serve(&self.gateway, &runtime);
        Ok(runtime)
    }

    /// The configuration as it lies there, or as it was kept, with every secret that it names.
    fn load(&self, kept: Option<&Content>) -> Loaded {
        let names = provider::catalog_names();
        self.handle.block_on(self.gateway.state.secrets.load(&self.place, kept, &names))
    }

    /// A secret is another one: what runs is built anew, whatever lies in the folder.
    pub fn secrets_changed(&self) {
        let mut standing = self.lock();
        if let Outcome::Refused(_) = self.take_up(&mut standing, By::default()) {
            let running = self.gateway.runtime.load_full();
            let loaded = self.kept(standing.version).map(|kept| self.load(Some(&kept)));
            if let Some(loaded) = loaded.filter(|loaded| loaded.config.hash != running.config.hash) {
                match self.build(loaded) {
                    Ok(runtime) => self.swap(runtime),
                    Err(_) => tracing::error!("a secret has changed, and what runs could not be built with it"),
                }
            }
        }
        self.publish(&standing);
    }

    /// From here on requests get this runtime.
    fn swap(&self, new: Arc<Runtime>) {
        let (gateway, state) = (&self.gateway, &self.gateway.state);
        for name in new.config.needs_restart(&state.started) {
            tracing::warn!(key = name, "this change needs a restart");
        }
        state.auth.issuers().configure(&new.config.issuers);
        state.auth.set_configured(new.config.who());
        state.limits.configure(&new.config);
        state.queues.configure(&new.config.overload, &new.config.concurrency);
        state.health.welcome(new.routes.targets(), clock::now());
        state.health.quotas.configure(&new.config.quotas, new.routes.providers());
        state.stored.set_bounds(new.config.responses);
        self.handle.block_on(state.scripts.effects().builtins.cache.configure(&new.config.cache));
        state.audit.set_keep(new.config.audit.keep);
        let tried = state.rollout.under_way().map(|tried| tried.candidate.load().config.secrets.references.clone());
        self.handle.block_on(state.secrets.settle(&new.config.secrets, &tried.unwrap_or_default()));
        state.body_memory.set_limit(new.config.server.body_memory);
        known(&[&new]);
        let was = gateway.runtime.load().config.hash.clone();
        tracing::info!(hash = %new.config.hash, %was, version = %new.config.version, "configuration reloaded");
        gateway.runtime.store(new);
        state.plugins.prune();
        counts().reloaded(SystemTime::now());
    }

    fn refuse(&self, refused: Refused) -> Outcome {
        for problem in &refused.problems {
            tracing::error!(file = %problem.file, line = problem.line, "{}", problem.message);
        }
        let running = &self.gateway.runtime.load().config.hash;
        tracing::error!(hash = %refused.hash, %running, "configuration refused; the old one goes on");
        let refused = Arc::new(refused);
        let known = self.gateway.state.refused.swap(Some(refused.clone()));
        if known.is_none_or(|known| known.hash != refused.hash) {
            self.tell_refused(&refused);
        }
        counts().reload_refused();
        Outcome::Refused(refused)
    }

    /// Somebody says whose change it was that the watcher saw a moment ago.
    fn sign(&self, number: u64, by: By) {
        let fresh = |row: &Row| {
            let created: Option<SystemTime> = row.created.parse::<jiff::Timestamp>().ok().map(Into::into);
            let age = created.and_then(|at| SystemTime::now().duration_since(at).ok());
            row.cause == Cause::Files && row.author.is_none() && age.is_some_and(|age| age < SIGNED_WITHIN)
        };
        if (by.author.is_some() || by.note.is_some()) && self.versions.row(number).as_ref().is_some_and(fresh) {
            self.handle.block_on(self.versions.change(number, |row| (row.author, row.note) = (by.author, by.note)));
        }
    }

    fn kept(&self, number: u64) -> Option<Content> {
        let row = self.versions.row(number)?;
        let content = self.versions.content(&row);
        content.inspect_err(|error| tracing::warn!(%error, "secrets of the running version are not read anew")).ok()
    }

    /// The files as they lie there, for comparing.
    pub(super) fn files(&self) -> Content {
        Content::of(&self.load(None).config)
    }

    pub(super) fn publish(&self, standing: &Standing) {
        metrics::gauge!(names::PINNED).set(f64::from(u8::from(standing.pin.is_some())));
        self.gateway.state.standing.store(Arc::new(standing.clone()));
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of files that are no new version.
enum Known {
    Running,
    Tried(Arc<Rollout>),
    Held(Held),
    Pinned,
}

/// The first phase of a rollout by these rules.
fn first(rules: &config::Rollout) -> State {
    if rules.shadow.is_some() { State::Shadow } else { State::Canary }
}

/// Names that may stand in metric labels.
pub fn known(runtimes: &[&Runtime]) {
    let targets = runtimes.iter().flat_map(|runtime| runtime.config.models.values().flat_map(|m| &m.targets));
    counts().set_known(
        runtimes.iter().flat_map(|runtime| runtime.routes.aliases().map(ToString::to_string)),
        runtimes.iter().flat_map(|runtime| runtime.routes.providers().map(|p| p.name.to_string())),
        targets.map(|t| format!("{}/{}", t.provider, t.model)),
    );
}

fn cannot_run(number: u64, refused: &Refused) -> Error {
    let first = refused.problems.first().map(|p| format!("{}:{}: {}", p.file, p.line, p.message)).unwrap_or_default();
    conflict("version_cannot_run", format!("{} cannot run any more, and nothing was changed: {first}", id(number)))
}

pub(super) fn conflict(code: &'static str, message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidRequest, message).with_code(code).with_status(409)
}

const SIGNED_WITHIN: Duration = Duration::from_secs(60);
