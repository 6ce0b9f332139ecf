//! `portcullis serve`: the gateway itself. Builds what runs, tells it on one screen, keeps it fresh, and ends it in good
//! order. Decides nothing about requests.

use std::{
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context as _;
use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    account::{Ledger, estimate::Estimates, settle},
    admin,
    aside::Inside,
    auth::{Keys, Principal},
    cli::{Exit, outbound::Outside},
    config::{self, Config, Place, Secret, StoreKind, env, watch},
    gateway::Gateway,
    limit::{Budgets, Limits},
    opaque::objects::Objects,
    plugin::Plugins,
    provider::KeyRests,
    route::Health,
    runtime::{Refused, Runtime, State},
    script::Scripts,
    seal::Seals,
    server::{self, BodyMemory, Certificates, DrainReport, Listener},
    store::{self, Directory, Store},
    telemetry::{self, Ring, metrics},
    token::Tokens,
    transport::Transport,
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
    let _logs = telemetry::logs::init(env::log_filter(&env::var).as_deref()).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
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

/// A gateway that serves. Tests start it as a library; dropping it does not stop it.
pub struct Running {
    pub gateway: Arc<Gateway>,
    place: Place,
    data: SocketAddr,
    admin: SocketAddr,
    first_key: Option<FirstKey>,
    watcher: watch::Watcher,
    drain: CancellationToken,
    close: CancellationToken,
    serving: JoinHandle<DrainReport>,
    helpers: Vec<JoinHandle<()>>,
    settling: JoinHandle<()>,
    ledger: Arc<Ledger>,
    store: Arc<dyn Store>,
    budgets: Arc<Budgets>,
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
        let runtime = Runtime::build(&place, &scripts, &plugins).map_err(StartError::Config)?;
        Running::assemble(place, runtime, (scripts, plugins)).await.map_err(StartError::Other)
    }

    async fn assemble(
        place: Place,
        runtime: Runtime,
        (scripts, plugins): (Scripts, Plugins),
    ) -> anyhow::Result<Running> {
        let config = runtime.config.clone();
        let certificates = config.server.tls.as_ref().map(Certificates::load).transpose()?;
        let listener = Listener::bind(config.server.listen, certificates)
            .with_context(|| format!("cannot listen on {} (server.listen)", config.server.listen))?;
        let admin_listener = tokio::net::TcpListener::bind(config.admin.listen)
            .await
            .with_context(|| format!("cannot listen on {} (admin.listen)", config.admin.listen))?;
        let store = store::open(&config.store).await?;
        let keys = Keys::open(store.clone(), &config.auth, &config.teams).await?;
        let first_key = first_key(&config, &keys).await?;
        let ledger = Ledger::open(store.clone(), Arc::new(Ring::default()), std::time::SystemTime::now).await?;
        let estimates = Arc::new(Estimates::default());
        let (queue, settling) = settle::start(ledger.clone(), estimates.clone());
        let budgets = Budgets::new(store.clone(), Some(ledger.clone()), config.budget_lease);
        budgets.set_teams(&config.teams);
        budgets.prepare().await;
        let transport = Transport::new(&proxies());
        let gateway = Arc::new(Gateway {
            state: State {
                auth: keys.table().clone(),
                nobody: Arc::new(Principal::default()),
                seals: Seals::new(&keys.secret_for("sealed ids"))?,
                objects: Objects::new(store.clone()),
                limits: Limits::new(budgets.clone()),
                estimates,
                health: Health::default(),
                keys: KeyRests::default(),
                tokens: Tokens::new(transport.client()),
                transport,
                body_memory: BodyMemory::new(config.server.body_memory),
                stored: Arc::default(),
                settle: queue,
                started: config.clone(),
                store: store.clone(),
                refused: ArcSwapOption::empty(),
                draining: false.into(),
                scripts,
                plugins,
            },
            runtime: ArcSwap::from_pointee(runtime),
        });
        gateway.state.scripts.effects().asks.answer_with(Inside::of(&gateway));
        known(&gateway.runtime.load());
        let (drain, close) = (CancellationToken::new(), CancellationToken::new());
        let (data, admin) = (listener.local_addr()?, admin_listener.local_addr()?);
        let serving = tokio::spawn(server::serve(listener, config.server.clone(), gateway.clone(), drain.clone()));
        let token = config.admin.token.clone();
        let plane = Arc::new(admin::AdminState { keys, ledger: ledger.clone(), facts: gateway.clone(), token });
        let stop = close.clone();
        let helpers = vec![
            tokio::spawn(async move {
                if let Err(error) = admin::serve(admin_listener, plane, stop).await {
                    tracing::error!(%error, "the admin plane stopped");
                }
            }),
            tokio::spawn(metrics().upkeep(close.clone())),
            tokio::spawn(budgets.clone().run(close.clone())),
            tokio::spawn(ledger.clone().run(kept(&gateway), close.clone())),
        ];
        let watcher = watched(&gateway, &place)?;
        Ok(Running {
            gateway,
            place,
            data,
            admin,
            first_key,
            watcher,
            drain,
            close,
            serving,
            helpers,
            settling,
            ledger,
            store,
            budgets,
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
        self.drain.cancel();
        let report = self.serving.await;
        self.close.cancel();
        drop(self.watcher);
        for helper in self.helpers {
            let _ = helper.await;
        }
        // The last exchange is gone when its gateway is: then the queue ends by itself.
        drop(self.gateway);
        let _ = tokio::time::timeout(SETTLE, self.settling).await;
        self.budgets.close().await;
        self.ledger.close().await;
        let _ = self.store.close().await;
        // A server that panicked has cut everything it had.
        report.unwrap_or(DrainReport { open: 0, cut: 0, took: std::time::Duration::ZERO })
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
        for warning in runtime.warnings.iter().chain(self.store.notices()) {
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

/// Reloads on every change of what the runtime was made of.
fn watched(gateway: &Arc<Gateway>, place: &Place) -> io::Result<watch::Watcher> {
    let (listed, reloading) = (gateway.clone(), gateway.clone());
    let place = place.clone();
    let list = move || listed.runtime.load().config.watched();
    watch::watch(list, move || reload(&reloading, &place))
}

/// Builds a new runtime and swaps it in; what does not validate changes nothing.
pub fn reload(gateway: &Gateway, place: &Place) {
    let old = gateway.runtime.load_full();
    match Runtime::build(place, &gateway.state.scripts, &gateway.state.plugins) {
        Ok(new) if new.config.hash == old.config.hash => {
            gateway.state.refused.store(None);
        }
        Ok(new) => {
            for name in new.config.needs_restart(&gateway.state.started) {
                tracing::warn!(key = name, "this change needs a restart");
            }
            gateway.state.auth.set_teams(&new.config.teams);
            gateway.state.limits.set_teams(&new.config.teams);
            gateway.state.body_memory.set_limit(new.config.server.body_memory);
            known(&new);
            tracing::info!(hash = %new.config.hash, was = %old.config.hash, "configuration reloaded");
            gateway.runtime.store(Arc::new(new));
            drop(old);
            gateway.state.plugins.prune();
            gateway.state.refused.store(None);
            metrics().reloaded(std::time::SystemTime::now());
        }
        Err(refused) => {
            for problem in &refused.problems {
                tracing::error!(file = %problem.file, line = problem.line, "{}", problem.message);
            }
            tracing::error!(hash = %refused.hash, running = %old.config.hash, "configuration refused; the old one goes on");
            gateway.state.refused.store(Some(Arc::new(refused)));
            metrics().reload_refused();
        }
    }
}

/// For how long records and sums are kept, as the running configuration says.
fn kept(gateway: &Arc<Gateway>) -> impl Fn() -> config::Records + Send + 'static {
    let gateway = Arc::downgrade(gateway);
    let for_ever = config::Records { keep: std::time::Duration::MAX, usage: std::time::Duration::MAX };
    move || gateway.upgrade().map_or(for_ever, |g| g.runtime.load().config.records)
}

/// Names that may stand in metric labels.
fn known(runtime: &Runtime) {
    let targets =
        runtime.config.models.values().flat_map(|m| &m.targets).map(|t| format!("{}/{}", t.provider, t.model));
    metrics().set_known(
        runtime.routes.aliases().map(ToString::to_string),
        runtime.routes.providers().map(|p| p.name.to_string()),
        targets,
    );
}

fn proxies() -> crate::upstream::ProxyConfig {
    let env::Proxies { http, https, all, no } = env::proxies(&env::var);
    crate::upstream::ProxyConfig { http, https, all, no }
}

/// Records that are still on their way at the end.
const SETTLE: std::time::Duration = std::time::Duration::from_secs(5);
