//! Refused keys and other security events, counted before they are written: one row a minute for each reason and key, or
//! address, and a bound on all of them together, so that a flood of bad keys cannot fill the store. Asked only when
//! something was refused; holds one short lock, and waits for nothing.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;

use super::{Actor, ActorKind, Entry, Origin, Outcome};

/// Whom a refusal is counted for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    Key(String),
    /// Of the admin plane: who was not let in, or may not do this.
    Actor(Actor),
    Peer(Option<IpAddr>),
    /// Those for whom there is no room any more.
    Others,
}

#[derive(Debug)]
struct Group {
    action: &'static str,
    count: u64,
    first: SystemTime,
    last: SystemTime,
    peer: Option<IpAddr>,
    /// When its last row was written.
    told: Option<Instant>,
}

#[derive(Default)]
pub struct Refusals {
    open: Mutex<Open>,
    /// Actions in this minute that an actor may not do, by the actor.
    forbidden: Mutex<HashMap<String, (Instant, u32)>>,
}

#[derive(Default)]
struct Open {
    groups: HashMap<(String, Subject), Group>,
    /// Rows of the day that began then.
    day: Option<Instant>,
    rows: u32,
}

impl Refusals {
    /// A request that ended with this code. Most codes are no matter of security, and cost one look at a list.
    pub fn note(&self, code: &str, key: Option<&str>, peer: Option<IpAddr>) {
        let Some((_, action)) = KINDS.iter().find(|(known, _)| *known == code) else { return };
        self.add(action, code, key.filter(|key| !key.is_empty()).map(|key| Subject::Key(key.to_owned())), peer);
    }

    /// Is this code about a key that was refused?
    pub fn concerns_key(code: &str) -> bool {
        KINDS.iter().any(|(known, action)| *known == code && *action == "key.refused")
    }

    /// An admin request that was not let in, or not allowed; `who`: where it is known.
    pub fn admin(&self, code: &str, who: Option<Actor>, peer: Option<IpAddr>) {
        self.add("admin.refused", code, who.map(Subject::Actor), peer);
    }

    /// This actor tried what it may not do. Each try is two rows, because what an action needs is known only when it is
    /// begun: so tries have a bound.
    pub fn forbade(&self, actor: &Actor) {
        let now = Instant::now();
        let mut forbidden = self.forbidden.lock().unwrap_or_else(PoisonError::into_inner);
        if forbidden.len() >= MOST_ACTORS {
            forbidden.retain(|_, (since, _)| now.duration_since(*since) < MINUTE);
        }
        let (since, tries) = forbidden.entry(named(actor)).or_insert((now, 0));
        if now.duration_since(*since) >= MINUTE {
            (*since, *tries) = (now, 0);
        }
        *tries = tries.saturating_add(1);
    }

    /// Has it tried too often in this minute?
    pub fn tired_of(&self, actor: &Actor) -> bool {
        let forbidden = self.forbidden.lock().unwrap_or_else(PoisonError::into_inner);
        let found = forbidden.get(&named(actor));
        found.is_some_and(|(since, tries)| *tries >= MOST_FORBIDDEN && since.elapsed() < MINUTE)
    }

    fn add(&self, action: &'static str, code: &str, who: Option<Subject>, peer: Option<IpAddr>) {
        let now = SystemTime::now();
        let peer = peer.map(net);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut name = (code.to_owned(), who.unwrap_or(Subject::Peer(peer)));
        if !open.groups.contains_key(&name) && (open.groups.len() >= MOST_GROUPS || open.rows >= MOST_A_DAY) {
            name.1 = Subject::Others;
        }
        let fresh = || Group { action, count: 0, first: now, last: now, peer, told: None };
        let group = open.groups.entry(name).or_insert_with(fresh);
        if group.count == 0 {
            group.first = now;
        }
        group.count += 1;
        group.last = now;
        group.peer = peer;
    }

    /// Rows that are due. `all`: whatever was counted, because nobody will ask again.
    pub(super) fn due(&self, now: Instant, all: bool) -> Vec<Entry> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.groups.is_empty() {
            return Vec::new();
        }
        if open.day.is_none_or(|day| now.duration_since(day) >= DAY) {
            (open.day, open.rows) = (Some(now), 0);
        }
        let rested = |told: Option<Instant>| told.is_none_or(|told| now.duration_since(told) >= MINUTE);
        let mut rows = Vec::new();
        for ((code, subject), group) in &mut open.groups {
            if group.count > 0 && (all || rested(group.told)) {
                rows.push(row(code, subject, group));
                (group.count, group.told) = (0, Some(now));
            }
        }
        open.rows = open.rows.saturating_add(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        open.groups.retain(|_, group| group.count > 0 || !rested(group.told));
        rows
    }
}

fn named(actor: &Actor) -> String {
    format!("{} {}", actor.kind.name(), actor.id.as_deref().or(actor.name.as_deref()).unwrap_or_default())
}

fn row(code: &str, subject: &Subject, group: &Group) -> Entry {
    let time = |at: SystemTime| jiff::Timestamp::try_from(at).map(|at| at.to_string()).unwrap_or_default();
    let actor = match subject {
        Subject::Key(id) => Actor { id: Some(id.clone()), ..Actor::new(ActorKind::Key) },
        Subject::Actor(actor) => actor.clone(),
        Subject::Peer(_) | Subject::Others => Actor::new(ActorKind::Unknown),
    };
    let from = Origin { peer: group.peer.filter(|_| !matches!(subject, Subject::Others)), agent: None };
    let object = actor.id.clone();
    let mut entry = Entry::new(actor, from, group.action).outcome(Outcome::Refused);
    entry.object = object;
    entry.code = Some(code.to_owned());
    entry.count = Some(group.count);
    entry.after = json!({ "first": time(group.first), "last": time(group.last) });
    if let Subject::Others = subject {
        entry.after["others"] = json!(true);
    }
    entry
}

/// An IPv6 caller has a whole network of addresses: its /64 is who it is.
fn net(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

/// Codes that are security events, and what they are called.
const KINDS: [(&str, &str); 16] = [
    ("invalid_api_key", "key.refused"),
    ("key_revoked", "key.refused"),
    ("key_expired", "key.refused"),
    ("key_disabled", "key.refused"),
    ("invalid_token", "key.refused"),
    ("token_expired", "key.refused"),
    ("model_not_allowed", "key.refused"),
    ("operation_not_allowed", "key.refused"),
    ("address_not_allowed", "key.refused"),
    ("user_disabled", "key.refused"),
    ("team_disabled", "key.refused"),
    ("organisation_disabled", "key.refused"),
    ("token_revoked", "key.refused"),
    ("path_not_listed", "key.refused"),
    ("egress_refused", "egress.refused"),
    ("media_not_allowed", "egress.refused"),
];

/// Of one actor in a minute; the next ones are refused before anything is written.
const MOST_FORBIDDEN: u32 = 30;
const MOST_ACTORS: usize = 1_000;
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// At a time. What comes beyond them shares a row a reason.
const MOST_GROUPS: usize = 64;
/// Rows; then only the shared ones go on.
const MOST_A_DAY: u32 = 5_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u32) -> Option<IpAddr> {
        Some(IpAddr::V4(n.into()))
    }

    #[test]
    fn many_refusals_of_one_key_are_a_row_a_minute_with_a_count() {
        let refusals = Refusals::default();
        let start = Instant::now();
        refusals.note("key_revoked", Some("key_1"), peer(1));
        let first = refusals.due(start, false);
        assert_eq!((first.len(), first[0].count, first[0].object.as_deref()), (1, Some(1), Some("key_1")));
        for _ in 0..1000 {
            refusals.note("key_revoked", Some("key_1"), peer(2));
        }
        assert!(refusals.due(start + Duration::from_secs(59), false).is_empty());
        let second = refusals.due(start + Duration::from_secs(60), false);
        assert_eq!((second.len(), second[0].count, second[0].from.peer), (1, Some(1000), peer(2)));
        assert!(refusals.due(start + Duration::from_secs(500), false).is_empty());
        assert!(refusals.open.lock().unwrap().groups.is_empty(), "nothing stays in memory");
    }

    #[test]
    fn a_flood_from_many_addresses_fills_neither_memory_nor_store() {
        let refusals = Refusals::default();
        let start = Instant::now();
        let mut rows = 0;
        let mut counted = 0;
        for minute in 0..24 * 60 {
            for n in 0..300 {
                refusals.note("invalid_api_key", None, peer(minute * 1000 + n));
            }
            let due = refusals.due(start + MINUTE * minute, false);
            rows += due.len();
            counted += due.iter().filter_map(|row| row.count).sum::<u64>();
            assert!(due.len() <= MOST_GROUPS + 1);
        }
        assert!(rows < 5_000 + 24 * 60 + MOST_GROUPS, "{rows} rows");
        counted += refusals.due(start + MINUTE * (24 * 60), true).iter().filter_map(|row| row.count).sum::<u64>();
        assert_eq!(counted, 24 * 60 * 300, "every one of them was counted");
    }

    #[test]
    fn an_actor_that_tries_what_it_may_not_do_is_stopped_for_a_while() {
        let refusals = Refusals::default();
        let actor = |id: &str| Actor { id: Some(id.to_owned()), ..Actor::new(ActorKind::Token) };
        for _ in 0..MOST_FORBIDDEN {
            assert!(!refusals.tired_of(&actor("a")));
            refusals.forbade(&actor("a"));
        }
        assert!(refusals.tired_of(&actor("a")) && !refusals.tired_of(&actor("b")));
        for n in 0..MOST_ACTORS * 2 {
            refusals.forbade(&actor(&n.to_string()));
        }
        assert!(refusals.tired_of(&actor("a")), "many others change nothing");
    }

    #[test]
    fn what_is_no_matter_of_security_is_not_counted() {
        let refusals = Refusals::default();
        for code in ["rate_limited", "invalid_request", "upstream_failed", "key_missing"] {
            refusals.note(code, Some("key_1"), peer(1));
        }
        assert!(refusals.due(Instant::now(), true).is_empty());
        // A network of one caller is one caller.
        for n in 0..100_u128 {
            let address = IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | n));
            refusals.note("invalid_api_key", None, Some(address));
        }
        assert_eq!(refusals.due(Instant::now(), true).len(), 1);
    }
}
