//! `portcullis serve`: the gateway itself. Builds what runs, tells it on one screen, keeps it fresh, and ends it in good
//! order. Decides nothing about requests.

mod ground;
mod shared;

use std::{
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use self::ground::Ground;
use crate::{
    account::{Ledger, estimate::Estimates, learned, settle},
    admin, alerts,
    aside::Inside,
    audit::{self, Audit, Entry},
    auth::{Keys, Principal},
    batch,
    cli::{
        Exit,
        outbound::{IssuerKeys, Outside},
    },
    config::{self, Config, Content, Place, Secret, StoreKind, env, watch},
    gateway::{Gateway, checks},
    hints::Hints,
    limit::{self, Budgets, days},
    opaque::{claims::Claims, objects::Objects},
    plugin::Plugins,
    provider::KeyRests,
    queue::Queues,
    quota::Quotas,
    realtime::Sessions,
    rollout::{self, Begun, Deploy},
    route::{Health, Waits},
    runtime::{Refused, Runtime, State},
    script::Scripts,
    seal::Seals,
    server::{self, BodyMemory, Certificates, DrainReport, Listener},
    spare,
    store::{self, Directory, Store},
    stored::Stored,
    telemetry::{self, Ring, metrics},
    token::Tokens,
    transport::Transport,
    versions::{By, Versions},
};

/// Run the gateway: clients on one port, operators on another. Saved changes of gateway.toml, scripts/ and plugins/ are
/// taken up within a second; a mistake changes nothing. SIGTERM ends it after running requests are answered.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {}

const EXAMPLE: &str = "\
Example:
  OPENAI_API_KEY=sk-… portcullis serve --config gateway.toml";

pub fn run(_: &Args, place: &Place) -> anyhow::Result<Exit> {
    store::reserve_statistics();
    let _logs = telemetry::logs::init(env::log_filter(&env::var).as_deref()).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK).build()?;
    runtime.block_on(async {
        let running = match Running::start_at(place.clone()).await {
            Ok(running) => running,
            Err(StartError::Config(refused)) => return Ok(super::refuse(&refused.problems)?),
            Err(StartError::Other(error)) => return Err(error),
        };
        running.greet()?;
        let mut term = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = tokio::signal::ctrl_c() => break,
                _ = hangup.recv() => running.watcher.poke(),
            }
        }
        tracing::info!("draining: no new connections soon, running requests are answered; Ctrl-C again ends at once");
        let report = tokio::select! {
            report = running.stop() => report,
            // What was acknowledged is durable already.
            _ = tokio::signal::ctrl_c() => {
                tracing::warn!("ended at once: requests that ran are cut");
                return Ok(Exit::Failed);
            }
        };
        tracing::info!(open = report.open, cut = report.cut, "stopped");
        Ok(Exit::Done)
    })
}

/// Of a serving thread: a script may nest ten thousand lists in one another, and they are counted, shown and dropped level by
/// level. Address space, not memory.
const STACK: usize = 16 << 20;

/// A gateway that serves. Tests start it as a library; dropping it does not stop it.
pub struct Running {
    pub gateway: Arc<Gateway>,
    place: Place,
    data: SocketAddr,
    admin: SocketAddr,
    first_key: Option<FirstKey>,
    watcher: watch::Watcher,
    deploy: Arc<Deploy>,
    /// Of the start, for its one screen.
    warnings: Vec<String>,
    drain: CancellationToken,
    close: CancellationToken,
    serving: JoinHandle<DrainReport>,
    helpers: Vec<JoinHandle<()>>,
    settling: JoinHandle<()>,
    ledger: Arc<Ledger>,
    store: Arc<dyn Store>,
    budgets: Arc<Budgets>,
    quotas: Arc<Quotas>,
    /// What requests used is written down where several gateways count together: until this, and then to the end.
    counted: CancellationToken,
    books: Option<JoinHandle<()>>,
}

/// The key of the very first start: for a terminal, or in a file.
enum FirstKey {
    Shown(Secret),
    Kept(PathBuf),
}

/// Why nothing runs.
pub enum StartError {
    Config(Refused),
    Other(anyhow::Error),
}

impl Running {
    /// Starts from a gateway.toml.
    pub async fn start(path: &std::path::Path) -> anyhow::Result<Running> {
        Running::start_at(Place::File(path.to_owned())).await.map_err(|e| match e {
            StartError::Config(refused) => {
                let all: Vec<String> = refused.problems.iter().map(ToString::to_string).collect();
                anyhow::anyhow!("{}", all.join("\n"))
            }
            StartError::Other(error) => error,
        })
    }

    pub async fn start_at(place: Place) -> Result<Running, StartError> {
        let (scripts, plugins) = (Scripts::live(), Plugins::live(Some(Arc::new(Outside::new(proxies())))));
        let (mut loaded, ground) = ground::read(&place).await.map_err(StartError::Other)?;
        loaded.problems.extend(super::certificates(&loaded.config));
        let content = Content::of(&loaded.config);
        let files = match Runtime::of(loaded, &scripts, &plugins) {
            Ok(files) => files,
            Err(refused) => {
                if let Some(ground) = ground {
                    let _ = ground.store.close().await;
                }
                return Err(StartError::Config(refused));
            }
        };
        Running::assemble(place, (files, content), (scripts, plugins), ground).await.map_err(StartError::Other)
    }

    async fn assemble(
        place: Place,
        (files, content): (Runtime, Content),
        (scripts, plugins): (Scripts, Plugins),
        ground: Option<Ground>,
    ) -> anyhow::Result<Running> {
        let config = files.config.clone();
        let mut sockets = Some(sockets(&config).await?);
        let Ground { store, ring, secrets } = match ground {
            Some(ground) => ground,
            None => Ground::open(&config).await?,
        };
        store.join().await?;
        let versions = Arc::new(Versions::open(store.clone()).await?);
        let begun = rollout::begin(&place, (files, content), (&scripts, &plugins), &versions, &secrets).await;
        let Begun { runtime, standing, resumes, warnings } = begun.map_err(anyhow::Error::msg)?;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let (files, config) = (config, runtime.config.clone());
        if config.server.listen != files.server.listen
            || config.server.tls != files.server.tls
            || config.admin.listen != files.admin.listen
        {
            // Another version runs than the files': its own addresses.
            drop(sockets.take());
        }
        let (listener, admin_listener) = match sockets {
            Some(sockets) => sockets,
            None => self::sockets(&config).await?,
        };
        let tried = resumes.as_ref().map(|(_, candidate)| candidate.config.secrets.references.clone());
        secrets.settle(&config.secrets, &tried.unwrap_or_default()).await;
        let keys = Keys::with(&ring, store.clone(), &config.auth, config.who()).await?;
        keys.table().issuers().configure(&config.issuers);
        let first_key = first_key(&config, &keys).await?;
        let audit =
            Audit::open(store.clone(), &keys.secret_for(audit::PURPOSE), store.node().unwrap_or(audit::LOCAL)).await?;
        audit.set_keep(config.audit.keep);
        match audit.close_unended().await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(
                count,
                "nobody knows what became of admin actions when the gateway ended: the audit log names them"
            ),
            Err(error) => {
                tracing::error!(%error, "the audit log could not be looked through for actions without an end")
            }
        }
        let ledger = Ledger::open_as(
            store.node().unwrap_or(""),
            store.clone(),
            Arc::new(Ring::default()),
            std::time::SystemTime::now,
        )
        .await?;
        ledger.keep_bodies(&keys.secret_for(BODIES));
        let estimates = Arc::new(Estimates::default());
        learned::restore(&estimates, &*store).await;
        let (queue, settling) = settle::start(ledger.clone(), estimates.clone());
        let budgets = Budgets::new(store.clone(), Some(ledger.clone()), config.budget_lease);
        budgets.configure(limit::configured(&config));
        budgets.prepare().await;
        let (limits, books) = limit::counting(&*store, &config.store, &budgets)?;
        // Before anybody is served, as all that binds callers.
        days::restore(limits.meters(), &*store).await;
        let quotas = Quotas::new(store.clone(), limits.desk().cloned());
        quotas.configure(&config.quotas, runtime.routes.providers());
        quotas.prepare().await;
        let counted = CancellationToken::new();
        let books = books.map(|books| tokio::spawn(books.run(counted.clone())));
        let durable = store.directory().filter(|_| config.responses.persist);
        let stored = Stored::open(durable, &keys.secret_for("kept responses"), config.responses).await?;
        let cached_secret = keys.secret_for("cached answers");
        let transport = Transport::new(&proxies());
        keys.table().issuers().ask_through(Arc::new(IssuerKeys(transport.client())));
        let gateway = Arc::new(Gateway {
            state: State {
                auth: keys.table().clone(),
                nobody: Arc::new(Principal::default()),
                seals: Seals::new(&keys.secret_for("sealed ids"))?,
                objects: Objects::new(store.clone()),
                claims: Arc::new(Claims::new(store.clone(), Some(ledger.clone()))?),
                limits,
                queues: Queues::new(&config.overload),
                estimates,
                health: Health::with(quotas.clone()),
                waits: Waits::default(),
                keys: KeyRests::default(),
                tokens: Tokens::new(transport.client()),
                transport,
                body_memory: BodyMemory::new(config.server.body_memory),
                stored,
                sessions: Sessions::default(),
                settle: queue,
                started: config.clone(),
                store: store.clone(),
                audit: audit.clone(),
                secrets: secrets.clone(),
                certificates: listener.certificates().cloned(),
                refused: ArcSwapOption::empty(),
                draining: false.into(),
                rollout: rollout::Slot::default(),
                experiments: Arc::default(),
                standing: ArcSwap::default(),
                scripts,
                plugins,
            },
            runtime: ArcSwap::from_pointee(runtime),
        });
        gateway.state.health.welcome(gateway.runtime.load().routes.targets(), Instant::now());
        Inside::serve(&gateway, &gateway.runtime.load());
        let experiments = gateway.state.experiments.clone();
        experiments.serve(&gateway);
        experiments.read(&*store).await;
        let (scripts, plugins) = (gateway.state.scripts.effects().kv, gateway.state.plugins.effects().kv);
        let cache = gateway.state.scripts.effects().builtins.cache;
        cache.stand_on(store.clone(), cached_secret);
        cache.configure(&config.cache).await;
        let hints = Hints::new(store.clone(), scripts, plugins);
        hints.read(&gateway.runtime.load().stages.iter().map(|stage| stage.uses.as_str()).collect()).await;
        rollout::known(&[&gateway.runtime.load()]);
        let standing_told = standing.named();
        let started = serde_json::json!({ "running": standing_told, "gateway": env!("CARGO_PKG_VERSION"), "notices": store.notices() });
        audit.record_done(Entry::system(audit::STARTED).after(started)).await;
        let deploy = Deploy::new(gateway.clone(), place.clone(), versions, standing);
        if let Some((number, candidate)) = resumes {
            let deploy = deploy.clone();
            tokio::task::spawn_blocking(move || deploy.resume(number, candidate)).await?;
        }
        let (drain, close) = (CancellationToken::new(), CancellationToken::new());
        let (data, admin) = (listener.local_addr()?, admin_listener.local_addr()?);
        shared::introduce(&*store, admin).await;
        let serving = tokio::spawn(server::serve(listener, config.server.clone(), gateway.clone(), drain.clone()));
        let token = config.admin.token.clone();
        let (facts, deployment) = (gateway.clone(), deploy.clone());
        let followed = shared::follow(&store, &keys, &budgets, &secrets, &close);
        let catching_up = keys.clone().catch_up(admin::written_late(audit.clone()), close.clone());
        let plane = Arc::new(admin::AdminState {
            keys,
            ledger: ledger.clone(),
            audit: audit.clone(),
            secrets: secrets.clone(),
            facts,
            deployment,
            token,
        });
        let stop = close.clone();
        let told = gateway.clone();
        let webhook = move || told.runtime.load().config.alerts.clone();
        let heard = budgets.alarm().hear().context("alerts are heard once a process")?;
        let alerts_lease = match &config.store.kind {
            StoreKind::Redis(redis) => redis.lease,
            _ => Duration::ZERO,
        };
        let teller = (gateway.state.transport.client(), store.clone(), alerts_lease);
        let alerts = alerts::run(heard, teller, webhook, close.clone());
        let mut helpers = vec![
            tokio::spawn(async move {
                if let Err(error) = admin::serve(admin_listener, plane, stop).await {
                    tracing::error!(%error, "the admin plane stopped");
                }
            }),
            tokio::spawn(metrics().upkeep(close.clone())),
            tokio::spawn(spare::let_go(close.clone())),
            tokio::spawn(pressed(&gateway, close.clone())),
            tokio::spawn(audit.run(close.clone())),
            tokio::spawn(catching_up),
            tokio::spawn(secrets.run(close.clone())),
            tokio::spawn(deploy.clone().follow_secrets(close.clone())),
            tokio::spawn(deploy.clone().watch_over(close.clone())),
            tokio::spawn(checks::run(gateway.clone(), drain.clone())),
            tokio::spawn(batch::look_after(gateway.clone(), drain.clone())),
            tokio::spawn(budgets.clone().run(close.clone())),
            tokio::spawn(quotas.clone().run(close.clone())),
            tokio::spawn(alerts),
            tokio::spawn(days::run(gateway.state.limits.meters().clone(), store.clone(), close.clone())),
            tokio::spawn(hints.run(close.clone())),
            tokio::spawn(experiments.run(store.clone(), close.clone())),
            tokio::spawn(learned::run(gateway.state.estimates.clone(), store.clone(), close.clone())),
            tokio::spawn(ledger.clone().run(kept(&gateway), close.clone())),
        ];
        helpers.extend(followed);
        let watcher = watched(&deploy)?;
        Ok(Running {
            gateway,
            place,
            data,
            admin,
            first_key,
            watcher,
            deploy,
            warnings,
            drain,
            close,
            serving,
            helpers,
            settling,
            ledger,
            store,
            budgets,
            quotas,
            counted,
            books,
        })
    }

    pub fn data_addr(&self) -> SocketAddr {
        self.data
    }

    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// As SIGTERM does: not ready, no new connections, streams finish within the grace, everything is written.
    pub async fn stop(self) -> DrainReport {
        self.gateway.state.draining.store(true, std::sync::atomic::Ordering::Relaxed);
        let server = &self.gateway.state.started.server;
        let until = Instant::now() + server.drain_delay + server.drain;
        self.drain.cancel();
        // A server that panicked has cut everything it had.
        let mut report = self.serving.await.unwrap_or(DrainReport { open: 0, cut: 0, took: Duration::ZERO });
        // Sessions have left their connections behind, and have the same time.
        let sessions = &self.gateway.state.sessions;
        report.open += sessions.count();
        report.cut += sessions.end(until).await;
        self.gateway.state.experiments.end();
        self.close.cancel();
        drop(self.watcher);
        for helper in self.helpers {
            let _ = helper.await;
        }
        self.gateway.state.stored.sync().await;
        let audit = self.gateway.state.audit.clone();
        let cache = self.gateway.state.scripts.effects().builtins.cache;
        // The last exchange is gone when its gateway is: then the queue ends by itself.
        drop((self.gateway, self.deploy));
        let _ = tokio::time::timeout(SETTLE, self.settling).await;
        cache.sync().await;
        self.counted.cancel();
        if let Some(books) = self.books {
            let _ = books.await;
        }
        audit.record_done(Entry::system("gateway.stop")).await;
        if let Err(error) = audit.keep_head().await {
            tracing::warn!(%error, "the file audit.head could not be written");
        }
        self.budgets.close().await;
        self.quotas.close_store().await;
        self.ledger.close().await;
        let _ = self.store.close().await;
        report
    }

    /// The one screen of a start.
    fn greet(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let runtime = self.gateway.runtime.load();
        let scheme = if runtime.config.server.tls.is_some() { "https" } else { "http" };
        writeln!(out, "Portcullis {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(out, "  gateway    {scheme}://{}", self.data)?;
        writeln!(out, "  admin      http://{}", self.admin)?;
        if let Place::BuiltIn(_) = self.place {
            writeln!(out, "  config     built in (there is no gateway.toml in this folder)")?;
        }
        let (ready, waiting): (Vec<_>, Vec<_>) = runtime.routes.providers().partition(|p| p.ready());
        let names =
            |list: &[&Arc<crate::provider::Provider>]| list.iter().map(|p| p.name.to_string()).collect::<Vec<_>>();
        for line in super::check::wrapped("ready      ", &names(&ready)) {
            writeln!(out, "  {line}")?;
        }
        match waiting.len() {
            0 => {}
            n if n <= FEW => writeln!(out, "  no key     {} (portcullis check tells why)", names(&waiting).join(", "))?,
            n => writeln!(out, "  no key     {n} providers (portcullis check names them and what each lacks)")?,
        }
        let stages: Vec<&str> = runtime.stages.iter().map(|s| s.uses.as_str()).collect();
        writeln!(out, "  stages     {}", if stages.is_empty() { "none".to_owned() } else { stages.join(", ") })?;
        for warning in self.warnings.iter().chain(&runtime.warnings).chain(self.store.notices()) {
            writeln!(out, "  warning    {warning}")?;
        }
        self.greet_key(&mut out, scheme)
    }

    fn greet_key(&self, out: &mut impl Write, scheme: &str) -> io::Result<()> {
        let key = match &self.first_key {
            None => return out.flush(),
            Some(FirstKey::Shown(key)) => {
                writeln!(out, "\nYour first key, shown this once:\n  {}", key.expose())?;
                key.expose().to_owned()
            }
            Some(FirstKey::Kept(path)) => {
                writeln!(out, "\nYour first key is in {} (readable by you alone).", path.display())?;
                format!("$(cat {})", path.display())
            }
        };
        writeln!(out, "\nTry it:")?;
        writeln!(
            out,
            "  curl {scheme}://{}/v1/chat/completions -H \"Authorization: Bearer {key}\" -H 'content-type: application/json' \
             -d '{{\"model\": \"mock\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]}}'",
            self.data
        )?;
        out.flush()
    }
}

/// As many names as fit the start's one line.
const FEW: usize = 6;

/// On the very first start: one key, so that the first request needs no other command.
async fn first_key(config: &Config, keys: &Keys) -> anyhow::Result<Option<FirstKey>> {
    if !config.auth.required || config.store.kind == StoreKind::Memory {
        return Ok(None);
    }
    let Some(key) = keys.first_run().await? else { return Ok(None) };
    if io::stdout().is_terminal() {
        return Ok(Some(FirstKey::Shown(key)));
    }
    let path = Directory::open(&config.store.path)?.keep_first_key(key.expose())?;
    Ok(Some(FirstKey::Kept(path)))
}

/// The ports of clients and of operators.
async fn sockets(config: &Config) -> anyhow::Result<(Listener, tokio::net::TcpListener)> {
    let certificates = config.server.tls.as_ref().map(Certificates::load).transpose()?;
    let listener = Listener::bind(config.server.listen, certificates)
        .with_context(|| format!("cannot listen on {} (server.listen)", config.server.listen))?;
    let admin = tokio::net::TcpListener::bind(config.admin.listen)
        .await
        .with_context(|| format!("cannot listen on {} (admin.listen)", config.admin.listen))?;
    Ok((listener, admin))
}

/// Reloads on every change of what the runtime was made of.
fn watched(deploy: &Arc<Deploy>) -> io::Result<watch::Watcher> {
    let (listed, reloading) = (deploy.clone(), deploy.clone());
    watch::watch(move || listed.watched(), move || drop(reloading.reload(By::default())))
}

/// Looks after the process's own memory and lag.
fn pressed(gateway: &Arc<Gateway>, stop: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
    let (bodies, settings) = (gateway.clone(), gateway.clone());
    let bodies = move || (bodies.state.body_memory.used(), bodies.runtime.load().config.server.body_memory);
    let settings = move || settings.runtime.load().config.overload;
    gateway.state.queues.pressure.clone().watch(bodies, settings, stop)
}

/// For how long records and sums are kept, as the running configuration says.
fn kept(gateway: &Arc<Gateway>) -> impl Fn() -> config::Records + Send + 'static {
    let gateway = Arc::downgrade(gateway);
    let (keep, usage) = (Duration::MAX, Duration::MAX);
    let for_ever = config::Records { keep, usage, bodies: false };
    move || gateway.upgrade().map_or(for_ever, |g| g.runtime.load().config.records)
}

fn proxies() -> crate::upstream::ProxyConfig {
    let env::Proxies { http, https, all, no } = env::proxies(&env::var);
    crate::upstream::ProxyConfig { http, https, all, no }
}

/// What the key that seals recorded bodies is made for.
pub const BODIES: &str = "recorded bodies";

/// Records that are still on their way at the end.
const SETTLE: Duration = Duration::from_secs(5);
