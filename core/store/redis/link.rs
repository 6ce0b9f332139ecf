//! The way to Redis: one connection that many share, given up at the first sign that it is of no use and made anew by a task
//! of its own. While there is none every question fails at once: nobody waits for a server that is known to be away. Knows
//! nothing of rows or limits.

use std::{
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, ServerErrorKind, TlsCertificates, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
};
use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    scripts::{self, Lua, text},
    time::Time,
};
use crate::{
    config::{self, RedisPlace},
    store::{Result, StoreError},
};

pub(super) struct Link {
    /// As messages name the server.
    pub at: String,
    pub config: Arc<config::Redis>,
    dial: Dial,
    live: ArcSwapOption<Live>,
    /// Why changes fail at the moment.
    fault: ArcSwapOption<StoreError>,
    /// There is no connection: its keeper is to make one.
    lost: Notify,
    pub closed: CancellationToken,
    /// Which store this is, since it was opened: another one in its place is none of ours.
    id: OnceLock<String>,
    about: String,
    /// A line in the log was written for the outage that lasts.
    told: AtomicBool,
    /// Another link tells of outages.
    pub quiet: bool,
    pub time: Time,
}

enum Dial {
    One(Box<Client>),
    /// And what messages are heard from: any of its hosts tells all.
    Many(Box<ClusterClient>, Vec<Client>),
}

#[derive(Clone)]
enum Live {
    One(MultiplexedConnection),
    Many(ClusterConnection),
}

impl Link {
    pub fn new(config: Arc<config::Redis>, about: String) -> Result<Link> {
        let at = config.address();
        let dial = dial(&config).map_err(|why| StoreError::Shared { at: at.clone(), why })?;
        Ok(Link {
            at,
            config,
            dial,
            live: ArcSwapOption::empty(),
            fault: ArcSwapOption::empty(),
            lost: Notify::new(),
            closed: CancellationToken::new(),
            id: OnceLock::new(),
            about,
            told: AtomicBool::new(false),
            quiet: false,
            time: Time::default(),
        })
    }

    /// A second connection to the same store.
    pub fn beside(&self) -> Result<Link> {
        let mut link = Link::new(self.config.clone(), self.about.clone())?;
        link.closed = self.closed.child_token();
        link.known(self.id().to_owned());
        Ok(link)
    }

    /// The first connection, if it can be made at once; its keeper goes on trying.
    pub async fn begin(&self) {
        if let Err(error) = self.connect().await {
            self.fault.store(Some(Arc::new(error)));
            self.lost.notify_one();
        }
    }

    /// The first connection: a server that starts at the same time is waited for, one that refuses us is not.
    pub async fn open(&self) -> Result<()> {
        let until = tokio::time::Instant::now() + FIRST;
        loop {
            match self.connect().await {
                Ok(()) => return Ok(()),
                Err(error @ StoreError::Unreachable { .. }) if tokio::time::Instant::now() > until => {
                    return Err(error);
                }
                Err(StoreError::Unreachable { .. }) => tokio::time::sleep(RETRY).await,
                Err(other) => return Err(other),
            }
        }
    }

    /// Makes a new connection whenever there is none, until it is closed.
    pub async fn keep(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.lost.notified() => {}
                () = self.closed.cancelled() => return,
            }
            let mut rest = RETRY;
            while self.live.load().is_none() {
                match self.connect().await {
                    Ok(()) => {
                        if self.told.swap(false, Ordering::Relaxed) {
                            tracing::info!(redis = %self.at, "redis answers again");
                        }
                    }
                    Err(error) => {
                        self.tell(&error);
                        self.fault.store(Some(Arc::new(error)));
                        // Not all gateways at once.
                        let spread = rest.mul_f64(0.5 + fastrand::f64() / 2.0);
                        tokio::select! {
                            () = tokio::time::sleep(spread) => {}
                            () = self.closed.cancelled() => return,
                        }
                        rest = (rest * 2).min(RETRY_MOST);
                    }
                }
            }
        }
    }

    async fn connect(&self) -> Result<()> {
        let patience = self.config.timeout.max(CONNECT);
        let made = tokio::time::timeout(patience, self.dial.connect(patience)).await;
        let live = match made {
            Err(_elapsed) => return Err(self.unreachable(format!("no connection within {} s", patience.as_secs_f64()))),
            Ok(Err(error)) => return Err(self.failure(&error)),
            Ok(Ok(live)) => Arc::new(live),
        };
        let hello = scripts::HELLO.command(&[self.about.as_bytes()], &[]);
        let answer = self.ask(&live, &scripts::HELLO, hello, patience).await?;
        let layout = text(&answer, 0);
        let id = text(&answer, 1);
        match (self.id.get(), id) {
            // At the first time it may be empty: `begin` makes it ours.
            (None, _) => {}
            (Some(known), Some(id)) if *known == id => {}
            (Some(_), _) => return Err(StoreError::Replaced { at: self.at.clone() }),
        }
        if let Some(layout) = layout.filter(|layout| !layout.is_empty() && layout != scripts::LAYOUT) {
            let why = format!(
                "it holds data of layout {layout}, this gateway reads layout {}: use the gateway version that wrote it, or \
                 another store.prefix",
                scripts::LAYOUT
            );
            return Err(StoreError::Shared { at: self.at.clone(), why });
        }
        self.live.store(Some(live));
        self.fault.store(None);
        Ok(())
    }

    /// From now on only this store will do.
    pub fn known(&self, id: String) {
        let _ = self.id.set(id);
    }

    pub fn id(&self) -> &str {
        self.id.get().map_or("", String::as_str)
    }

    /// Runs a script; the server keeps its text after the first time.
    pub async fn run(&self, lua: &Lua, keys: &[&[u8]], args: &[&[u8]], patience: Duration) -> Result<Value> {
        if self.closed.is_cancelled() {
            return Err(StoreError::Closed);
        }
        let Some(live) = self.live.load_full() else { return Err(self.away()) };
        let answer = self.ask(&live, lua, lua.command(keys, args), patience).await;
        if let Err(error @ StoreError::Shared { .. }) = &answer {
            // It answers, and will not do it: snapshots that fail, a user who may not.
            self.fault.store(Some(Arc::new(error.copy())));
        }
        answer
    }

    /// A plain command.
    pub async fn call(&self, command: Cmd, patience: Duration) -> Result<Value> {
        if self.closed.is_cancelled() {
            return Err(StoreError::Closed);
        }
        let Some(live) = self.live.load_full() else { return Err(self.away()) };
        self.send(&live, &command, patience).await
    }

    async fn ask(&self, live: &Arc<Live>, lua: &Lua, command: (Cmd, Cmd), patience: Duration) -> Result<Value> {
        let (short, long) = command;
        match self.send(live, &short, patience).await {
            Err(StoreError::Shared { why, .. }) if why == NO_SCRIPT => {
                tracing::debug!(script = lua.name, "redis is given a script");
                self.send(live, &long, patience).await
            }
            other => other,
        }
    }

    async fn send(&self, live: &Arc<Live>, command: &Cmd, patience: Duration) -> Result<Value> {
        let answer = match &**live {
            Live::One(connection) => {
                tokio::time::timeout(patience, connection.clone().send_packed_command(command)).await
            }
            Live::Many(connection) => {
                tokio::time::timeout(patience, connection.clone().req_packed_command(command)).await
            }
        };
        let error = match answer {
            Ok(Ok(Value::ServerError(error))) => RedisError::from(error),
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_elapsed) => {
                let why = format!("within {} s", patience.as_secs_f64());
                self.lose(live, &self.unreachable(format!("no answer {why}")));
                return Err(StoreError::Unanswered { at: self.at.clone(), why });
            }
        };
        let broken = error.is_io_error() || error.is_connection_dropped();
        let error = self.failure(&error);
        match &error {
            StoreError::Unreachable { why, .. } if broken => {
                self.lose(live, &error);
                return Err(StoreError::Unanswered { at: self.at.clone(), why: why.clone() });
            }
            StoreError::Unreachable { .. } | StoreError::Replaced { .. } => self.lose(live, &error),
            StoreError::SharedFull { .. } => self.fault.store(Some(Arc::new(error.copy()))),
            _ => {}
        }
        Err(error)
    }

    /// A change was taken: what stood in the way is gone.
    pub fn took(&self) {
        if self.fault.load().is_some() && self.live.load().is_some() {
            self.fault.store(None);
        }
    }

    /// The connection is of no use: nobody uses it any more. One that has another in its place already costs nothing.
    fn lose(&self, live: &Arc<Live>, error: &StoreError) {
        if !self.live.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, live)) {
            return;
        }
        self.live.store(None);
        self.fault.store(Some(Arc::new(error.copy())));
        self.tell(error);
        self.lost.notify_one();
    }

    fn tell(&self, error: &StoreError) {
        if !self.quiet && !self.told.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the shared store is away: what is in memory is served on");
        }
    }

    /// Why there is no connection.
    fn away(&self) -> StoreError {
        match self.fault.load().as_deref() {
            Some(error) => error.copy(),
            None => self.unreachable("it is being connected to".to_owned()),
        }
    }

    pub fn fault(&self) -> Option<Arc<StoreError>> {
        self.fault.load_full()
    }

    pub fn close(&self) {
        self.closed.cancel();
        self.live.store(None);
    }

    fn unreachable(&self, why: String) -> StoreError {
        StoreError::Unreachable { at: self.at.clone(), why }
    }

    /// What an error means for who asked.
    fn failure(&self, error: &RedisError) -> StoreError {
        let at = self.at.clone();
        let detail = || error.detail().map_or_else(|| error.to_string(), str::to_owned);
        match (error.kind(), error.code()) {
            (ErrorKind::Server(ServerErrorKind::NoScript), _) => StoreError::Shared { at, why: NO_SCRIPT.to_owned() },
            (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => {
                self.unreachable("it is a replica, which takes no changes".to_owned())
            }
            (ErrorKind::Server(ServerErrorKind::BusyLoading), _) => {
                self.unreachable("it is loading its data".to_owned())
            }
            (
                ErrorKind::Server(
                    ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown | ServerErrorKind::TryAgain,
                ),
                _,
            ) => self.unreachable(detail()),
            (_, Some("OOM")) => StoreError::SharedFull { at },
            (_, Some("REPLACED")) => StoreError::Replaced { at },
            // Snapshots fail, so it takes no writes.
            (_, Some("MISCONF" | "NOREPLICAS")) => StoreError::Shared { at, why: detail() },
            (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => StoreError::Shared {
                at,
                why: format!(
                    "it does not let this gateway in ({}): look at the user in store.url and at store.password",
                    detail()
                ),
            },
            (ErrorKind::Io | ErrorKind::ClusterConnectionNotFound, _) => self.unreachable(detail()),
            _ if error.is_connection_dropped() || error.is_unrecoverable_error() || error.is_timeout() => {
                self.unreachable(detail())
            }
            _ => StoreError::Shared { at, why: detail() },
        }
    }

    /// A connection that hears the messages of `channel`.
    pub async fn listen(&self, channel: &str) -> Result<::redis::aio::PubSub> {
        let client = match &self.dial {
            Dial::One(client) => client,
            Dial::Many(_, clients) => &clients[fastrand::usize(..clients.len())],
        };
        let listen = async {
            let mut heard = client.get_async_pubsub().await?;
            heard.subscribe(channel).await?;
            Ok(heard)
        };
        match tokio::time::timeout(self.config.timeout.max(CONNECT), listen).await {
            Ok(Ok(heard)) => Ok(heard),
            Ok(Err(error)) => Err(self.failure(&error)),
            Err(_elapsed) => Err(self.unreachable("no connection".to_owned())),
        }
    }
}

impl Dial {
    async fn connect(&self, patience: Duration) -> ::redis::RedisResult<Live> {
        match self {
            Dial::One(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(patience))
                    .set_response_timeout(None)
                    .set_pipeline_buffer_size(QUEUE);
                Ok(Live::One(client.get_multiplexed_async_connection_with_config(&config).await?))
            }
            Dial::Many(client, _) => Ok(Live::Many(client.get_async_connection().await?)),
        }
    }
}

fn dial(config: &config::Redis) -> std::result::Result<Dial, String> {
    let plain = |e: RedisError| e.to_string();
    let certificates = match &config.ca {
        None => None,
        Some(path) => {
            let pem = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
            Some(TlsCertificates { client_tls: None, root_cert: Some(pem) })
        }
    };
    if config.tls {
        // Another part of the process may have been first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
    let places: Vec<ConnectionInfo> = match &config.place {
        RedisPlace::Socket(path) => vec![place(config, ConnectionAddr::Unix(path.clone()))?],
        RedisPlace::Hosts(hosts) => {
            let address = |(host, port): &(String, u16)| match config.tls {
                true => ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None },
                false => ConnectionAddr::Tcp(host.clone(), *port),
            };
            hosts.iter().map(|host| place(config, address(host))).collect::<std::result::Result<_, _>>()?
        }
    };
    let client = |place: &ConnectionInfo| match &certificates {
        Some(certificates) => Client::build_with_tls(place.clone(), certificates.clone()),
        None => Client::open(place.clone()),
    };
    let clients = places.iter().map(client).collect::<::redis::RedisResult<Vec<_>>>().map_err(plain)?;
    if !config.cluster {
        return clients.into_iter().next().map(Box::new).map(Dial::One).ok_or_else(|| "it has no address".to_owned());
    }
    let patience = config.timeout.max(CONNECT);
    let mut builder = ClusterClient::builder(places).retries(CLUSTER_RETRIES).connection_timeout(patience);
    builder = builder.response_timeout(patience);
    if let Some(certificates) = certificates {
        builder = builder.certs(certificates);
    }
    Ok(Dial::Many(Box::new(builder.build().map_err(plain)?), clients))
}

fn place(config: &config::Redis, address: ConnectionAddr) -> std::result::Result<ConnectionInfo, String> {
    let mut who =
        RedisConnectionInfo::default().set_db(config.database).set_lib_name("portcullis", env!("CARGO_PKG_VERSION"));
    if let Some(user) = &config.user {
        who = who.set_username(user);
    }
    if let Some(password) = &config.password {
        who = who.set_password(password.expose());
    }
    let info = address.into_connection_info().map_err(|e| e.to_string())?;
    Ok(info.set_redis_settings(who))
}

/// What `failure` makes of a script that the server does not have yet.
const NO_SCRIPT: &str = "no such script";
/// For the first connection of all.
const FIRST: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(1);
/// Questions on their way into the connection.
const QUEUE: usize = 1024;
/// Of a cluster that is moving slots or masters.
const CLUSTER_RETRIES: u32 = 3;

/// Texts and hashes of all scripts are made once.
pub(super) type Once = LazyLock<Lua>;
