//! The tables of the store. A table is one byte in front of every key, so that one batch may change several tables at
//! once. Tags and names are part of the file format: never reuse one.

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Facts about the store itself.
    Meta,
    /// Virtual keys by id: `auth::row`.
    Keys,
    /// Budgets by scope and window: `limit::lease`.
    Budgets,
    /// Sums of usage by hour, as they were kept before `Reports`.
    Usage,
    /// Files and batches at upstreams, by tenant: `opaque::objects`.
    Objects,
    /// Versions of configuration, scripts and plugins: `versions::row`.
    Versions,
    /// Organisations, teams, users and what changed last: `auth::row`, `auth::revision`.
    Identities,
    /// Tokens of the admin API by id: `auth::row`.
    Tokens,
    /// What was done to the gateway, in chains: `audit`.
    Audit,
    /// Provider keys and other secrets, sealed: `secrets::kept`.
    Secrets,
    /// Budgets that are raised for a while: `limit::raise`.
    Raises,
    /// Gateways that share the store: `nodes`.
    Nodes,
    /// What stages keep in `kv`, by stage, tenant and key: `hints`.
    Kv,
    /// Sums of usage: `account::usage`.
    Reports,
    /// How arms of experiments fared, by the hour: `experiment::kept`.
    Experiments,
    /// Windows of quotas and closings by providers: `quota::keeper`.
    Quotas,
    /// Alerts that somebody sends, or has sent: `alerts::claims`.
    Alerts,
}

impl Table {
    pub const ALL: [Table; 17] = [
        Table::Meta,
        Table::Keys,
        Table::Budgets,
        Table::Usage,
        Table::Objects,
        Table::Versions,
        Table::Identities,
        Table::Tokens,
        Table::Audit,
        Table::Secrets,
        Table::Raises,
        Table::Nodes,
        Table::Kv,
        Table::Reports,
        Table::Experiments,
        Table::Quotas,
        Table::Alerts,
    ];

    pub const fn tag(self) -> u8 {
        match self {
            Table::Meta => 1,
            Table::Keys => 2,
            Table::Budgets => 3,
            Table::Usage => 4,
            Table::Objects => 5,
            Table::Versions => 6,
            Table::Identities => 7,
            Table::Tokens => 8,
            Table::Nodes => 12,
            Table::Reports => 14,
            Table::Audit => 9,
            Table::Secrets => 10,
            Table::Raises => 11,
            Table::Kv => 13,
            Table::Experiments => 17,
            Table::Quotas => 15,
            Table::Alerts => 18,
        }
    }

    /// As exports write it.
    pub const fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Keys => "keys",
            Table::Budgets => "budgets",
            Table::Usage => "usage",
            Table::Objects => "objects",
            Table::Versions => "versions",
            Table::Identities => "identities",
            Table::Tokens => "tokens",
            Table::Nodes => "nodes",
            Table::Reports => "reports",
            Table::Audit => "audit",
            Table::Secrets => "secrets",
            Table::Raises => "raises",
            Table::Kv => "kv",
            Table::Experiments => "experiments",
            Table::Quotas => "quotas",
            Table::Alerts => "alerts",
        }
    }

    /// Gateways hold these rows in memory: on a shared store they hear of changes.
    pub const fn is_told(self) -> bool {
        matches!(self, Table::Keys | Table::Identities | Table::Tokens | Table::Raises | Table::Secrets)
    }

    /// Each gateway's own, also on a shared store: the configuration is each one's files.
    pub const fn is_own(self) -> bool {
        matches!(self, Table::Versions)
    }

    pub fn named(name: &str) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.name() == name)
    }

    pub(super) fn tagged(tag: u8) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.tag() == tag)
    }

    /// The key as the backend's one tree holds it.
    pub(super) fn key(self, key: &[u8]) -> Vec<u8> {
        let mut whole = Vec::with_capacity(key.len() + 1);
        whole.push(self.tag());
        whole.extend_from_slice(key);
        whole
    }
}
