//! What a guest may import, by the names that an operator grants. Pure: names in, sentences out.

use super::bind::{PACKAGE, VERSION};

/// Interfaces of the contract: the import's name, and the grant it needs.
const IMPORTS: [(&str, Option<&str>); 9] = [
    ("types", None),
    ("context", None),
    ("facts", None),
    ("config", None),
    ("logging", Some("log")),
    ("kv", Some("kv")),
    ("metrics", Some("metrics")),
    ("clock", Some("clock")),
    ("http", Some("http")),
];

/// What one stage was granted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grants {
    names: Vec<String>,
}

/// What an import is to this gateway.
#[derive(Debug, PartialEq)]
pub enum Import {
    /// Of the contract, and needs this grant.
    Offered(Option<&'static str>),
    /// Of the contract, but this gateway has no such interface, or speaks another version.
    Unknown,
    /// Of another package (`wasi:…`): it may be there, a call is a trap.
    Foreign,
}

impl Grants {
    pub fn new(names: &[String]) -> Self {
        Grants { names: names.to_vec() }
    }

    /// `http` is granted when any host is.
    pub fn has(&self, grant: &str) -> bool {
        self.names.iter().any(|name| name == grant || name.split(':').next() == Some(grant))
    }

    /// May it call this host (and port)? Written without a port a grant means the scheme's own.
    pub fn host(&self, host: &str, port: Option<u16>) -> bool {
        let full = port.map(|port| format!("{host}:{port}"));
        self.names.iter().filter_map(|name| name.strip_prefix("http:")).any(|granted| {
            granted.eq_ignore_ascii_case(full.as_deref().unwrap_or(host))
                || (matches!(port, Some(80 | 443)) && granted.eq_ignore_ascii_case(host))
        })
    }

    /// The sentence that refuses a guest which uses what it was not given.
    pub fn refusal<'i>(&self, uses: &str, imports: impl IntoIterator<Item = &'i str>) -> Option<String> {
        let mut missing = Vec::new();
        for name in imports {
            match import(name) {
                Import::Offered(Some(grant)) if !self.has(grant) => missing.push(grant),
                Import::Offered(_) | Import::Foreign => {}
                Import::Unknown => {
                    return Some(format!(
                        "it imports {name}, which this gateway does not offer (it speaks {PACKAGE}@{VERSION})"
                    ));
                }
            }
        }
        if missing.is_empty() {
            return None;
        }
        let wanted: Vec<String> = missing.iter().map(|grant| format!("\"{}\"", example(grant))).collect();
        Some(format!(
            "it uses {}, which it is not granted: list it as [[stages]] use = \"{uses}\" with grant = [{}], if it may",
            missing.join(" and "),
            wanted.join(", ")
        ))
    }
}

/// As it would be written.
pub fn example(grant: &str) -> &str {
    if grant == "http" { "http:HOST" } else { grant }
}

/// What an import's full name (`portcullis:plugin/kv@1.0.0`) stands for.
pub fn import(name: &str) -> Import {
    let (path, version) = name.split_once('@').unwrap_or((name, ""));
    let Some(interface) = path.strip_prefix(PACKAGE).and_then(|rest| rest.strip_prefix('/')) else {
        return Import::Foreign;
    };
    if !speaks(version) {
        return Import::Unknown;
    }
    match IMPORTS.iter().find(|(known, _)| *known == interface) {
        Some((_, grant)) => Import::Offered(*grant),
        None => Import::Unknown,
    }
}

/// Versions 1.x up to our own: a later one may hold what this gateway has not.
fn speaks(version: &str) -> bool {
    let numbers = |text: &str| -> Option<(u32, u32, u32)> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        Some((parts.next()??, parts.next()??, parts.next()??))
    };
    match (numbers(version), numbers(VERSION)) {
        (Some(theirs), Some(ours)) => theirs.0 == ours.0 && theirs <= ours,
        _ => false,
    }
}

/// One of each, to look at a guest.
pub fn all_grants() -> Vec<String> {
    IMPORTS.iter().filter_map(|(_, grant)| grant.map(|grant| example(grant).to_owned())).collect()
}
