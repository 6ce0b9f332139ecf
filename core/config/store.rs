//! `[store]`, resolved: which engine keeps keys, counters and sums, and how the shared one is reached. Plain data.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::Secret;

#[derive(Debug, Clone, PartialEq)]
pub struct Store {
    pub kind: StoreKind,
    /// The folder of sled, and with Redis of what is this gateway's own: records, stored answers, versions.
    pub path: PathBuf,
}

#[derive(Debug, Clone, PartialEq)]
pub enum StoreKind {
    Sled,
    Redis(Arc<Redis>),
    Memory,
}

/// How Redis is reached, and what it holds.
#[derive(Debug, Clone)]
pub struct Redis {
    pub place: RedisPlace,
    pub cluster: bool,
    pub tls: bool,
    /// PEM; `None`: the system's authorities.
    pub ca: Option<PathBuf>,
    pub database: i64,
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// What every name begins with.
    pub prefix: String,
    /// For one question.
    pub timeout: Duration,
    pub on_outage: OnOutage,
    /// `store.budget_lease`: of reservations and places.
    pub lease: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisPlace {
    /// More than one only of a cluster: any of them will do to begin with.
    Hosts(Vec<(String, u16)>),
    Socket(PathBuf),
}

/// What a request with a limit or a budget meets while Redis does not answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OnOutage {
    Refuse,
    /// All gateways together may give out this share of what was left when it answered last.
    Lease(f64),
}

impl Store {
    /// Is there anything to open, or would opening make it?
    pub fn exists(&self) -> bool {
        match self.kind {
            StoreKind::Sled => self.path.is_dir(),
            StoreKind::Redis(_) => true,
            StoreKind::Memory => false,
        }
    }

    /// As messages name it.
    pub fn name(&self) -> String {
        match &self.kind {
            StoreKind::Sled => format!("sled in {}", self.path.display()),
            StoreKind::Redis(redis) => format!("{}, prefix {:?}", redis.address(), redis.prefix),
            StoreKind::Memory => "memory: forgotten at exit".to_owned(),
        }
    }
}

impl Redis {
    /// `redis at host:6379`: without a secret.
    pub fn address(&self) -> String {
        let what = if self.cluster { "the redis cluster" } else { "redis" };
        match &self.place {
            RedisPlace::Socket(path) => format!("{what} at {}", path.display()),
            RedisPlace::Hosts(hosts) => {
                let hosts: Vec<String> = hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
                format!("{what} at {}", hosts.join(","))
            }
        }
    }
}

impl PartialEq for Redis {
    fn eq(&self, other: &Redis) -> bool {
        let plain = |r: &Redis| {
            let word = r.password.as_ref().map(|p| p.expose().to_owned());
            let who = (r.database, r.user.clone(), word, r.prefix.clone());
            (r.place.clone(), r.cluster, r.tls, r.ca.clone(), who, r.timeout, r.lease)
        };
        plain(self) == plain(other) && self.on_outage == other.on_outage
    }
}
