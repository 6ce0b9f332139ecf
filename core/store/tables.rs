//! The tables of the store. A table is one byte in front of every key, so that one batch may change several tables at
//! once. Tags and names are part of the file format: never reuse one.

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Facts about the store itself.
    Meta,
    /// Virtual keys by id: `auth::row`.
    Keys,
    /// Budgets by team and window: `limit::lease`.
    Budgets,
    /// Sums of usage by hour: `account::usage`.
    Usage,
    /// Files and batches at upstreams, by tenant: `opaque::objects`.
    Objects,
    /// Versions of configuration, scripts and plugins: `versions::row`.
    Versions,
    /// What stages keep in `kv`, by stage, tenant and key: `hints`.
    Kv,
}

impl Table {
    pub const ALL: [Table; 7] =
        [Table::Meta, Table::Keys, Table::Budgets, Table::Usage, Table::Objects, Table::Versions, Table::Kv];

    pub const fn tag(self) -> u8 {
        match self {
            Table::Meta => 1,
            Table::Keys => 2,
            Table::Budgets => 3,
            Table::Usage => 4,
            Table::Objects => 5,
            Table::Versions => 6,
            Table::Kv => 13,
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
            Table::Kv => "kv",
        }
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
