//! From the file's shape to finished objects: units, addresses, secrets, and names checked against each other. Collects
//! every problem; what is wrong falls back to its default so that the rest is checked too.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Admin, Auth, Config, Content, Elsewhere, Media, Problem, Responses, Secret, Server, Timeouts, Tls, file,
    shape::Sound,
    source::{Source, dotted, step},
    sources::{self, Sources},
    text,
};

mod cache;
mod experiment;
mod care;
mod data;
mod identity;
mod jwt;
mod limits;
mod logins;
mod models;
mod overload;
mod pricing;
mod profiles;
mod providers;
mod quotas;
mod rollout;
mod secrets;
mod stages;
mod store;
mod teams;

pub use identity::{budget, operation_named};
pub use teams::defaults;

/// What the file is read against.
pub struct Surroundings<'s, 't> {
    pub root: &'s Path,
    pub file: &'s Path,
    pub env: &'s dyn Fn(&str) -> Option<String>,
    /// Who knows secrets that lie neither in a variable nor in a file; `None`: nobody is asked.
    pub elsewhere: Option<&'s dyn Elsewhere>,
    /// Names of the provider catalogue's rows.
    pub rows: &'s [&'s str],
    /// In place of the files: what a version kept.
    pub kept: Option<&'s Content>,
    pub source: &'s Source<'t>,
    pub sound: &'s Sound<'t>,
}

pub struct Resolved {
    pub config: Config,
    pub warnings: Vec<String>,
    pub problems: Vec<Problem>,
    /// Secrets from elsewhere, by their reference: whether they are others than before is seen by the hash.
    pub values: Vec<(String, Secret)>,
    /// Files that were read on the way, and digests of what they held when they were.
    pub files: BTreeMap<PathBuf, String>,
}

/// Files that were read on the way are added to `beside`.
pub fn resolve(file: file::File, around: &Surroundings<'_, '_>, beside: &mut Sources) -> Resolved {
    let mut r = Resolver {
        around,
        problems: Vec::new(),
        warnings: Vec::new(),
        files: BTreeMap::new(),
        texts: Vec::new(),
        references: Vec::new(),
        values: Vec::new(),
    };
    let server = r.server(file.server.unwrap_or_default());
    let admin = r.admin(file.admin.unwrap_or_default(), &server);
    let mut raw_auth = file.auth.unwrap_or_default();
    let issuers = r.jwt(std::mem::take(&mut raw_auth.jwt));
    let auth = r.auth(raw_auth, &server);
    let raw_store = file.store.unwrap_or_default();
    let lease = raw_store.budget_lease.clone();
    let budget_lease = r.span(&path(&["store", "budget_lease"]), lease).unwrap_or(BUDGET_LEASE);
    let store = r.store(raw_store, budget_lease);
    let (mut raw_models, mut raw_providers) = (file.models, file.providers);
    let quotas = r.quotas(&mut raw_models, &mut raw_providers);
    let rules = r.rules(&mut raw_models, &mut raw_providers, file.tags);
    let alerts = r.alerts(file.alerts);
    let providers = r.providers(raw_providers);
    let models = r.models(raw_models, &providers);
    let concurrency = r.concurrencies(&models);
    let organisations = r.organisations(file.organisations, &providers, &models);
    let teams = r.teams(file.teams, &organisations, &providers, &models);
    let users = r.users(file.users, (&organisations, &teams), &providers, &models);
    let pricing = r.pricing(file.pricing, &providers);
    let catalogue = file.catalogue.unwrap_or_default();
    let unknown_price = match catalogue.unknown_price {
        Some(file::UnknownPrice::Refuse) => crate::config::UnknownPrice::Refuse,
        _ => crate::config::UnknownPrice::Reserve,
    };
    let catalogue = r.catalogue(catalogue);
    let media = r.media(file.media.unwrap_or_default());
    let records = r.records(file.records.unwrap_or_default());
    let responses = r.responses(file.responses.unwrap_or_default());
    let cache = r.cache(file.cache, file.stages.as_deref(), &store);
    let overload = r.overload(file.overload.unwrap_or_default());
    let audit = r.audit(file.audit.unwrap_or_default());
    let raw_secrets = file.secrets.unwrap_or_default();
    r.shares_master_key(&store, raw_secrets.master_key.is_some());
    let mut secrets = r.secrets(raw_secrets);
    secrets.references = std::mem::take(&mut r.references);
    let rollout = r.rollout(file.rollout);
    let stages = r.stages(file.stages, beside, &teams);
    beside.files.extend(r.files.keys().cloned());
    beside.texts = r.texts;
    let config = Config {
        root: around.root.to_owned(),
        file: around.file.to_owned(),
        hash: String::new(),
        version: String::new(),
        policy: String::new(),
        server,
        admin,
        store,
        auth,
        issuers,
        providers,
        models,
        organisations,
        teams,
        users,
        rules,
        quotas,
        alerts,
        pricing,
        catalogue,
        unknown_price,
        media,
        budget_lease,
        records,
        responses,
        cache,
        overload,
        concurrency,
        audit,
        secrets,
        rollout,
        stages,
        sources: Sources::default(),
    };
    Resolved { config, warnings: r.warnings, problems: r.problems, values: r.values, files: r.files }
}

struct Resolver<'r, 's, 't> {
    around: &'r Surroundings<'s, 't>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
    /// What was met, and what it held then.
    files: BTreeMap<PathBuf, String>,
    /// Those of them that are part of the configuration itself.
    texts: Vec<(String, Arc<str>)>,
    references: Vec<String>,
    values: Vec<(String, Secret)>,
}

impl Resolver<'_, '_, '_> {
    fn server(&mut self, raw: file::Server) -> Server {
        let default = Server::default();
        let at = |key: &str| path(&["server", key]);
        let connections = raw.max_connections.and_then(|n| usize::try_from(n).ok());
        Server {
            listen: self.address(&at("listen"), raw.listen.as_deref(), default.listen),
            tls: raw.tls.map(|tls| self.tls(tls)),
            max_upload: self.size(&at("max_upload"), raw.max_upload, default.max_upload),
            max_body: self.size(&at("max_body"), raw.max_body, default.max_body),
            batch_look: self.span(&at("batch_look"), raw.batch_look).unwrap_or(default.batch_look),
            drain: self.span_or_zero(&at("drain"), raw.drain, default.drain),
            drain_delay: self.span_or_zero(&at("drain_delay"), raw.drain_delay, default.drain_delay),
            write_stall: self.span(&at("write_stall"), raw.write_stall).unwrap_or(default.write_stall),
            body_memory: self.size(&at("body_memory"), raw.body_memory, default.body_memory),
            header_timeout: self.span(&at("header_timeout"), raw.header_timeout).unwrap_or(default.header_timeout),
            idle: self.span(&at("idle"), raw.idle).unwrap_or(default.idle),
            min_body_rate: self.size(&at("min_body_rate"), raw.min_body_rate, default.min_body_rate),
            max_connections: connections.unwrap_or(default.max_connections),
            max_event: usize::try_from(self.size(&at("max_event"), raw.max_event, default.max_event as u64))
                .unwrap_or(default.max_event),
            keep_alive: self.span(&at("keep_alive"), raw.keep_alive).unwrap_or(default.keep_alive),
        }
    }

    fn tls(&mut self, raw: file::Tls) -> Tls {
        let at = |key: &str| path(&["server", "tls", key]);
        Tls {
            cert: self.existing(&at("cert"), &raw.cert),
            key: self.existing(&at("key"), &raw.key),
            client_ca: raw.client_ca.map(|ca| self.existing(&at("client_ca"), &ca)),
        }
    }

    fn media(&mut self, raw: file::Media) -> Media {
        let default = Media::default();
        let at = |key: &str| path(&["media", key]);
        let plain = |host: &String| !host.is_empty() && !host.contains(['/', '*', '@', ' ', '[']);
        let allow = raw.allow.unwrap_or_default();
        if let Some(odd) = allow.iter().find(|host| !plain(host)) {
            let text = format!(
                "`media.allow`: {odd:?} is not a host's name such as \"files.internal\", without scheme, port or path"
            );
            self.tell(&at("allow"), text);
        }
        Media {
            fetch: raw.fetch.unwrap_or(default.fetch),
            allow: allow.iter().map(|host| host.to_ascii_lowercase()).collect(),
            max_size: self.size(&at("max_size"), raw.max_size, default.max_size),
            timeout: self.span(&at("timeout"), raw.timeout).unwrap_or(default.timeout),
        }
    }

    fn responses(&mut self, raw: file::Responses) -> Responses {
        let default = Responses::default();
        let at = |key: &str| path(&["responses", key]);
        Responses {
            keep: self.span(&at("keep"), raw.keep).unwrap_or(default.keep),
            max_size: self.size(&at("max_size"), raw.max_size, default.max_size),
            memory: self.size(&at("memory"), raw.memory, default.memory),
            persist: raw.persist.unwrap_or(default.persist),
        }
    }

    fn admin(&mut self, raw: file::Admin, server: &Server) -> Admin {
        let default = SocketAddr::from(([127, 0, 0, 1], 8081));
        let at = path(&["admin", "listen"]);
        let listen = self.address(&at, raw.listen.as_deref(), default);
        let named = raw.token.is_some() || self.removed(&path(&["admin", "token"]));
        let token = raw.token.and_then(|token| {
            let at = path(&["admin", "token"]);
            match self.secret(&at, &token)? {
                Found::Value(secret) => Some(secret),
                // An open admin plane where a closed one was asked for would be a trap.
                Found::Missing(why) => self.fault(&at, format!("`admin.token`: {why}; set it, or remove the key")),
            }
        });
        if !loopback(listen) && !named {
            let how = "set `admin.token = \"env:PORTCULLIS_ADMIN_TOKEN\"`, or listen on 127.0.0.1";
            self.tell(&at, format!("`admin.listen` {listen} is reachable from other machines: {how}"));
        }
        if same_socket(listen, server.listen) {
            let place = if self.around.source.has(&at) { at } else { path(&["server", "listen"]) };
            let message =
                format!("`admin.listen` and `server.listen` are both {listen}: give one of them another port");
            self.tell(&place, message);
        }
        Admin { listen, token }
    }

    fn auth(&mut self, raw: file::Auth, server: &Server) -> Auth {
        let required = raw.required.unwrap_or(true);
        if !required && !loopback(server.listen) {
            let message = format!(
                "`auth.required = false` opens the gateway to everybody who reaches {}: listen on 127.0.0.1, or require keys",
                server.listen
            );
            self.tell(&path(&["auth", "required"]), message);
        }
        Auth { required }
    }

    fn timeouts(&mut self, at: &[String], raw: Option<file::Timeouts>) -> Timeouts {
        let raw = raw.unwrap_or_default();
        let at = |key: &str| [at, &path(&["timeouts", key])].concat();
        Timeouts {
            connect: self.span(&at("connect"), raw.connect),
            first_event: self.span(&at("first_event"), raw.first_event),
            idle: self.span(&at("idle"), raw.idle),
            whole: self.span(&at("whole"), raw.whole),
        }
    }

    fn address(&mut self, at: &[String], text: Option<&str>, default: SocketAddr) -> SocketAddr {
        let Some(text) = text else { return default };
        text::address(text).or_else(|e| self.fault(at, format!("`{}`: {e}", dotted(at))).ok_or(())).unwrap_or(default)
    }

    /// A duration above zero.
    fn span(&mut self, at: &[String], raw: Option<file::Span>) -> Option<Duration> {
        match text::duration(&raw?.0) {
            Ok(Duration::ZERO) => self.fault(at, format!("`{}` must be more than zero", dotted(at))),
            Ok(span) => Some(span),
            Err(e) => self.fault(at, format!("`{}`: {e}", dotted(at))),
        }
    }

    fn span_or_zero(&mut self, at: &[String], raw: Option<file::Span>, default: Duration) -> Duration {
        match raw.map(|raw| text::duration(&raw.0)) {
            Some(Ok(span)) => span,
            Some(Err(e)) => self.fault(at, format!("`{}`: {e}", dotted(at))).unwrap_or(default),
            None => default,
        }
    }

    fn size(&mut self, at: &[String], raw: Option<file::Size>, default: u64) -> u64 {
        let size = match raw {
            None => return default,
            Some(file::Size::Bytes(bytes)) => Ok(bytes),
            Some(file::Size::Text(text)) => text::size(&text),
        };
        match size {
            Ok(0) => self.fault(at, format!("`{}` must be more than zero", dotted(at))).unwrap_or(default),
            Ok(size) => size,
            Err(e) => self.fault(at, format!("`{}`: {e}", dotted(at))).unwrap_or(default),
        }
    }

    /// A file that has to be there, relative to gateway.toml. It is watched from now on.
    fn existing(&mut self, at: &[String], name: &str) -> PathBuf {
        let full = self.around.root.join(name);
        if !full.is_file() {
            self.tell(at, format!("`{}`: there is no file {name:?} (from gateway.toml's folder)", dotted(at)));
        }
        self.meets(&full);
        full
    }

    /// Before a file is read, or named to who reads it later: it is watched from now on, and what it holds now has a part in the hash.
    /// Not what it holds afterwards: a change in between would be in the hash and not in what was read, and never be taken up.
    fn meets(&mut self, file: &Path) {
        if !self.files.contains_key(file) {
            let bytes = std::fs::read(file).unwrap_or_default();
            self.files.insert(file.to_owned(), sources::hash([("", &*bytes)]));
        }
    }

    fn tell(&mut self, at: &[String], message: impl Into<String>) {
        self.problems.push(self.around.source.at_value(at, message));
    }

    /// `tell`, where a value was expected.
    fn fault<T>(&mut self, at: &[String], message: impl Into<String>) -> Option<T> {
        self.tell(at, message);
        None
    }

    fn fault_at_key(&mut self, at: &[String], message: impl Into<String>) {
        self.problems.push(self.around.source.at_key(at, message));
    }

    fn warn(&mut self, message: String) {
        self.warnings.push(message);
    }

    /// Was this key there, but misshapen? Then no second complaint about its absence.
    fn removed(&self, at: &[String]) -> bool {
        self.around.sound.removed.contains(&dotted(at))
    }

    /// The path of a list's entry, by its place in the file.
    fn entry(&self, at: &[String], index: usize) -> Vec<String> {
        let places = self.around.sound.places.get(&dotted(at));
        let place = places.and_then(|places| places.get(index)).copied().unwrap_or(index);
        [at, &[step(place)]].concat()
    }

    /// In the order of the file, not of the alphabet.
    fn as_written<T>(&self, section: &str, map: BTreeMap<String, T>) -> Vec<(String, T)> {
        let mut entries: Vec<_> = map.into_iter().collect();
        entries.sort_by_key(|(name, _)| self.around.source.offset(&path(&[section, name])));
        entries
    }
}

/// A secret's value, or why there is none yet.
enum Found {
    Value(Secret),
    Missing(String),
}

fn path(steps: &[&str]) -> Vec<String> {
    steps.iter().map(|s| (*s).to_owned()).collect()
}

fn loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Would two listeners be in each other's way? Port 0 is another port each time.
fn same_socket(a: SocketAddr, b: SocketAddr) -> bool {
    let (left, right) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() != 0 && a.port() == b.port() && (left == right || left.is_unspecified() || right.is_unspecified())
}

const BUDGET_LEASE: Duration = Duration::from_secs(60);
const MOST_SECRET: u64 = 64 << 10;
