//! `[store]`: which engine, and where the shared one answers. An address holds no password: files are shown and kept.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{Found, Resolver, file, path};
use crate::config::{OnOutage, Redis, RedisPlace, Store, StoreKind};

impl Resolver<'_, '_, '_> {
    pub(super) fn store(&mut self, raw: file::Store, lease: Duration) -> Store {
        let folder = raw.path.clone().unwrap_or_else(|| "data".to_owned());
        if folder.trim().is_empty() {
            self.tell(&path(&["store", "path"]), "`store.path` is empty: name a folder such as \"data\"");
        }
        let kind = match raw.kind {
            Some(file::StoreKind::Memory) => StoreKind::Memory,
            Some(file::StoreKind::Sled) | None => StoreKind::Sled,
            Some(file::StoreKind::Redis) => match self.redis(&raw, lease) {
                Some(redis) => StoreKind::Redis(Arc::new(redis)),
                // A problem was told: nothing will run with this.
                None => StoreKind::Memory,
            },
        };
        if !matches!(raw.kind, Some(file::StoreKind::Redis)) {
            self.of_no_use(&raw);
        }
        Store { kind, path: self.around.root.join(folder) }
    }

    /// Gateways that share a store must hash and seal alike, wherever each of them lies.
    pub(super) fn shares_master_key(&mut self, store: &Store, named: bool) {
        if matches!(store.kind, StoreKind::Redis(_)) && !named {
            let message = "`store.kind = \"redis\"` needs `secrets.master_key`, the same at every gateway: \"env:NAME\", \
                           \"file:PATH\" (such as the data/master.key of the store that moved there) or a program";
            self.tell(&path(&["store", "kind"]), message);
        }
    }

    fn redis(&mut self, raw: &file::Store, lease: Duration) -> Option<Redis> {
        let at = |key: &str| path(&["store", key]);
        let elsewhere = |written: &&String| ELSEWHERE.iter().any(|form| written.starts_with(form));
        if raw.password.as_ref().filter(elsewhere).is_some() {
            let message =
                "`store.password` is what opens the store, before any other secret: \"env:NAME\" or \"file:PATH\"";
            return self.fault(&at("password"), message);
        }
        let password = raw.password.as_ref().and_then(|written| match self.secret(&at("password"), written)? {
            Found::Value(secret) => Some(secret),
            Found::Missing(why) => {
                self.fault(&at("password"), format!("`store.password`: {why}; set it, or remove the key"))
            }
        });
        let ca = raw.ca.as_ref().map(|ca| self.existing(&at("ca"), ca));
        let prefix = raw.prefix.clone().unwrap_or_else(|| PREFIX.to_owned());
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        if prefix.is_empty() || prefix.len() > MOST_PREFIX || !prefix.chars().all(plain) {
            let message =
                format!("`store.prefix` has 1 to {MOST_PREFIX} letters, digits, dots, colons, dashes or underscores");
            self.tell(&at("prefix"), message);
        }
        let timeout = self.span(&at("timeout"), raw.timeout.clone()).unwrap_or(TIMEOUT);
        let share = raw.lease_share.unwrap_or(SHARE);
        if !(share > 0.0 && share <= 1.0) {
            self.tell(&at("lease_share"), "`store.lease_share` is a share above 0, at most 1");
        }
        let on_outage = match raw.on_outage {
            Some(file::OnOutage::Lease) => OnOutage::Lease(share),
            Some(file::OnOutage::Refuse) | None => OnOutage::Refuse,
        };
        let Some(url) = &raw.url else {
            if self.removed(&at("url")) {
                return None;
            }
            let message = "`store.kind = \"redis\"` needs `store.url`, such as \"redis://127.0.0.1:6379\"";
            return self.fault(&at("kind"), message);
        };
        let address = match Address::parse(url) {
            Ok(address) => address,
            Err(why) => return self.fault(&at("url"), format!("`store.url`: {why}")),
        };
        if ca.is_some() && !address.tls {
            self.tell(&at("ca"), "`store.ca` is of no use without TLS: `store.url` would begin with \"rediss://\"");
        }
        let Address { place, cluster, tls, database, user } = address;
        if user.is_some() && password.is_none() && raw.password.is_none() {
            self.tell(&at("url"), "`store.url` names a user: `store.password = \"env:NAME\"` is missing");
        }
        Some(Redis { place, cluster, tls, ca, database, user, password, prefix, timeout, on_outage, lease })
    }

    /// Keys of Redis without Redis: somebody thinks that it is in use.
    fn of_no_use(&mut self, raw: &file::Store) {
        let file::Store {
            kind: _,
            path: _,
            budget_lease: _,
            url,
            password,
            prefix,
            ca,
            timeout,
            on_outage,
            lease_share,
        } = raw;
        let keys = [
            ("url", url.is_some()),
            ("password", password.is_some()),
            ("prefix", prefix.is_some()),
            ("ca", ca.is_some()),
            ("timeout", timeout.is_some()),
            ("on_outage", on_outage.is_some()),
            ("lease_share", lease_share.is_some()),
        ];
        for (key, _) in keys.into_iter().filter(|(_, there)| *there) {
            let message = format!("`store.{key}` is for `store.kind = \"redis\"` only: set that, or remove the key");
            self.fault_at_key(&path(&["store", key]), message);
        }
    }
}

/// What a `store.url` says.
struct Address {
    place: RedisPlace,
    cluster: bool,
    tls: bool,
    database: i64,
    user: Option<String>,
}

impl Address {
    /// By hand: a cluster's address may name several hosts, which no URL has.
    fn parse(url: &str) -> Result<Address, String> {
        let wrong = || {
            format!(
                "{} is no address of Redis: \"redis://host:6379\", \"rediss://host:6380/2\", \"redis+cluster://a:6379,b:6379\" \
                 or \"redis+unix:///run/redis.sock\"",
                shown(url)
            )
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let (cluster, tls) = match scheme {
            "redis" => (false, false),
            "rediss" => (false, true),
            "redis+cluster" => (true, false),
            "rediss+cluster" => (true, true),
            "redis+unix" | "unix" => {
                let place = RedisPlace::Socket(PathBuf::from(rest));
                let fine = rest.starts_with('/') && !rest.contains(['?', '@']);
                return if fine {
                    Ok(Address { place, cluster: false, tls: false, database: 0, user: None })
                } else {
                    Err(wrong())
                };
            }
            _ => return Err(wrong()),
        };
        let (user, rest) = match rest.rsplit_once('@') {
            Some((who, rest)) => (Some(who), rest),
            None => (None, rest),
        };
        if user.is_some_and(|who| who.contains(':')) {
            return Err(
                "a password does not belong into the file: `store.password = \"env:REDIS_PASSWORD\"` says where it \
                        is, the address keeps the user's name alone"
                    .to_owned(),
            );
        }
        let user = user.filter(|who| !who.is_empty()).map(str::to_owned);
        let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = match database {
            "" => 0,
            number => number.parse::<i64>().ok().filter(|n| (0..=MOST_DATABASE).contains(n)).ok_or_else(wrong)?,
        };
        if cluster && database != 0 {
            return Err("a cluster has one database, 0".to_owned());
        }
        let hosts: Option<Vec<(String, u16)>> = hosts.split(',').map(host).collect();
        let hosts = hosts.ok_or_else(wrong)?;
        if hosts.len() > 1 && !cluster {
            return Err("several hosts are for a cluster (\"redis+cluster://…\"); otherwise name one".to_owned());
        }
        Ok(Address { place: RedisPlace::Hosts(hosts), cluster, tls, database, user })
    }
}

/// `name`, `name:port`, `[::1]:port`.
fn host(text: &str) -> Option<(String, u16)> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, rest) = rest.split_once(']')?;
            name.parse::<std::net::Ipv6Addr>().ok()?;
            (name, rest.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map_or(Some(PORT), |port| port.parse().ok().filter(|port| *port != 0))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    (!name.is_empty() && name.chars().all(plain)).then(|| (name.to_owned(), port))
}

/// Somebody may have put a password there.
fn shown(url: &str) -> String {
    match url.split_once('@') {
        Some((_, rest)) => format!("\"…@{rest}\""),
        None => format!("{url:?}"),
    }
}

/// Secrets that lie where the store, or the network, leads.
const ELSEWHERE: [&str; 3] = ["store:", "vault:", "aws-sm:"];
const PREFIX: &str = "portcullis";
const MOST_PREFIX: usize = 100;
const TIMEOUT: Duration = Duration::from_secs(1);
const SHARE: f64 = 0.1;
const PORT: u16 = 6379;
const MOST_DATABASE: i64 = 1_000_000;
