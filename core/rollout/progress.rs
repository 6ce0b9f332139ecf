//! A rollout from its begin to its end: who looks after it, what each verdict leads to, and what an operator may say to it.
//! The other half of `Deploy`, which alone swaps what runs.

use std::{
    sync::{Arc, TryLockError},
    time::{Duration, SystemTime},
};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    Deploy, Held, Phase, Rollout, Standing,
    deploy::{conflict, known},
    judge::Verdict,
    shadow::Shadow,
};
use crate::{
    config,
    error::Result,
    runtime::Runtime,
    telemetry::names,
    versions::{By, Row, State, id, now},
};

impl Deploy {
    /// The version that is being tried serves all, whatever is still to be seen of it.
    pub fn promote(&self, by: &By) -> Result<u64> {
        let mut standing = self.lock();
        let rollout = self.tried()?;
        self.promoted(&mut standing, &rollout, by.author.as_deref().unwrap_or("the API"));
        self.publish(&standing);
        Ok(rollout.number)
    }

    /// It goes, and is not tried again until the files change.
    pub fn abort(&self, by: &By) -> Result<u64> {
        let mut standing = self.lock();
        let rollout = self.tried()?;
        let who = by.author.as_deref().unwrap_or("the API");
        let note = by.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
        self.end(State::Aborted, &format!("stopped by {who}{note}"), Some(&mut standing));
        self.publish(&standing);
        Ok(rollout.number)
    }

    fn tried(&self) -> Result<Arc<Rollout>> {
        let none = || conflict("no_rollout", "no version is being tried");
        // One that is over has failed, and is taken back in a moment.
        self.gateway.state.rollout.under_way().filter(|rollout| rollout.phase() != Phase::Over).ok_or_else(none)
    }

    /// Looks after a rollout, and after what the store did not take, until `stop`.
    pub async fn watch_over(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let pause = if self.gateway.state.rollout.under_way().is_some() { TICK } else { REST };
            tokio::select! {
                () = self.alarm.notified() => {}
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => break,
            }
            let me = self.clone();
            let _ = tokio::task::spawn_blocking(move || me.tick()).await;
        }
        // Its thread and its runtime go; the history says that it was under way.
        self.gateway.state.rollout.set(None);
    }

    /// Builds what runs anew whenever a secret that it names has changed, until `stop`.
    pub async fn follow_secrets(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = 0;
        loop {
            tokio::select! {
                () = self.gateway.state.secrets.changed(&mut seen) => {}
                () = stop.cancelled() => return,
            }
            let me = self.clone();
            let _ = tokio::task::spawn_blocking(move || me.secrets_changed()).await;
        }
    }

    fn tick(&self) {
        if !self.versions.saved() {
            self.handle.block_on(self.versions.save());
        }
        let Some(rollout) = self.gateway.state.rollout.under_way() else { return };
        if let Verdict::Wait(_) = rollout.verdict() {
            return;
        }
        let mut standing = match self.standing.try_lock() {
            Ok(standing) => standing,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody changes what runs: next time.
            Err(TryLockError::WouldBlock) => return,
        };
        if !self.gateway.state.rollout.under_way().is_some_and(|now| Arc::ptr_eq(&now, &rollout)) {
            return;
        }
        // Again: it may have failed meanwhile.
        match rollout.verdict() {
            Verdict::Wait(_) => {}
            Verdict::Revert(reason) => self.end(State::Reverted, &reason, Some(&mut standing)),
            Verdict::Next if rollout.phase() == Phase::Shadow && rollout.rules.canary.is_some() => {
                rollout.to_canary();
                self.handle.block_on(self.versions.change(rollout.number, |row| row.state = State::Canary));
                known(&[&self.gateway.runtime.load(), &rollout.candidate.load()]);
                metrics::gauge!(names::ROLLOUT_PHASE).set(f64::from(Phase::Canary as u8) + 1.0);
                self.tell("rollout.canary", rollout.number, json!({ "phase": "shadow" }), None);
                tracing::info!(
                    version = id(rollout.number),
                    share = rollout.rules.canary,
                    "it serves a share of requests"
                );
            }
            Verdict::Next => self.promoted(&mut standing, &rollout, "its figures"),
        }
        self.publish(&standing);
    }

    fn promoted(&self, standing: &mut Standing, rollout: &Rollout, by: &str) {
        let candidate = rollout.candidate.load_full();
        self.gateway.state.rollout.set(None);
        rollout.over();
        metrics::gauge!(names::ROLLOUT_PHASE).set(0.0);
        metrics::counter!(names::ROLLOUTS_ENDED, "outcome" => "promoted").increment(1);
        let by = format!("promoted by {by}");
        self.handle.block_on(self.versions.change(rollout.number, |row| row.reason = Some(by)));
        self.go_live(standing, rollout.number, candidate);
    }

    /// Starts to try a version.
    pub(super) fn begin(&self, row: &Row, candidate: Arc<Runtime>, rules: config::Rollout) {
        let running = self.gateway.runtime.load_full();
        let shadow = match rules.shadow {
            None => Shadow::none(),
            Some(_) => self.shadow(running.clone(), candidate.clone(), &rules),
        };
        known(&[&running, &candidate]);
        let named = (row.number, row.hash.clone());
        let rollout = Rollout::new(named, candidate, rules, shadow, self.alarm.clone());
        metrics::gauge!(names::ROLLOUT_PHASE).set(f64::from(rollout.phase() as u8) + 1.0);
        tracing::info!(
            version = id(row.number),
            hash = row.hash,
            phase = rollout.phase().name(),
            "a new version is being tried"
        );
        let before = json!({ "version": id(self.gateway.state.standing.load().version) });
        self.tell("rollout.begin", row.number, before, None);
        self.gateway.state.rollout.set(Some(Arc::new(rollout)));
        self.alarm.notify_one();
    }

    fn shadow(&self, old: Arc<Runtime>, new: Arc<Runtime>, rules: &config::Rollout) -> Shadow {
        Shadow::start(old, new, Arc::downgrade(&self.gateway), rules.p99).unwrap_or_else(|error| {
            tracing::error!(%error, "there is no shadow: its thread could not be started");
            Shadow::none()
        })
    }

    /// Ends a rollout, if there is one, without its version. `hold`: it is not tried again until the files change.
    pub(super) fn end(&self, state: State, reason: &str, hold: Option<&mut Standing>) {
        let Some(rollout) = self.gateway.state.rollout.under_way() else { return };
        self.gateway.state.rollout.set(None);
        rollout.over();
        let at = now(SystemTime::now());
        let ended = at.clone();
        self.handle.block_on(self.versions.change(rollout.number, |row| {
            (row.state, row.reason, row.ended) = (state, Some(reason.to_owned()), Some(ended));
        }));
        known(&[&self.gateway.runtime.load()]);
        let word = match state {
            State::Reverted => "reverted",
            State::Aborted => "aborted",
            _ => "superseded",
        };
        metrics::gauge!(names::ROLLOUT_PHASE).set(0.0);
        metrics::counter!(names::ROLLOUTS_ENDED, "outcome" => word).increment(1);
        let (version, hash) = (id(rollout.number), &rollout.hash);
        match state {
            State::Reverted => tracing::error!(version, hash, reason, "{word}: the version before it goes on"),
            _ => tracing::info!(version, hash, reason, "{word}: the version before it goes on"),
        }
        self.tell("rollout.end", rollout.number, json!({ "phase": rollout.phase().name() }), Some(reason));
        if let Some(standing) = hold {
            let (number, hash) = (rollout.number, rollout.hash.clone());
            standing.held = Some(Held { number, hash, reason: reason.to_owned(), at });
        }
        self.gateway.state.plugins.prune();
    }
}

/// Between two looks at a rollout, and at a store that took nothing.
const TICK: Duration = Duration::from_millis(200);
const REST: Duration = Duration::from_secs(5);
