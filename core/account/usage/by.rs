//! What a sum is by, and the key under which it lies: how finely, when, whose and what for, and which gateway added it up.
//! Names are as callers and operators write them; this bounds nothing.

use crate::{account::minute::Minute, config::Scope};

/// What a sum is by, beside its time. Empty: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct By<'a> {
    pub organisation: &'a str,
    pub team: &'a str,
    pub user: &'a str,
    pub key: &'a str,
    /// As it was asked for.
    pub model: &'a str,
    /// `provider/model`.
    pub target: &'a str,
    /// `name=value`, in order, with `TAG_END` behind each.
    pub tags: &'a str,
}

/// How long the window of a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Grain {
    Minute,
    /// Zones differ from UTC by quarters of an hour: days of all zones can be put together from these.
    Quarter,
    Day,
}

/// What all older sums are by: one thing each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    All,
    Organisation,
    Team,
    User,
    Key,
    Model,
    Target,
    Tag,
}

/// A key, taken apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place<'a> {
    pub grain: Grain,
    pub at: Minute,
    pub by: By<'a>,
    pub node: &'a str,
}

impl<'a> By<'a> {
    pub fn provider(&self) -> &'a str {
        self.target.split('/').next().unwrap_or("")
    }

    /// `name=value`
    pub fn tags(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.tags.split(TAG_END).filter(|tag| !tag.is_empty())
    }

    pub fn is_in(&self, scope: &Scope) -> bool {
        match scope {
            Scope::Organisation(id) => self.organisation == &**id,
            Scope::Team(id) => self.team == &**id,
            Scope::User(id) => self.user == &**id,
            Scope::Key(id) => self.key == &**id,
            Scope::Model(id) => self.model == &**id,
            Scope::Provider(id) => self.provider() == &**id,
            Scope::Tag(id) => self.tags().any(|tag| tag == &**id),
            Scope::Target(id) => self.target == &**id,
            // Records know no keys of providers.
            Scope::ProviderKey(_) => false,
        }
    }

    /// All that it is by, one by one.
    pub fn each(&self) -> impl Iterator<Item = (Kind, &'a str)> + use<'a> {
        let one = [
            (Kind::All, ""),
            (Kind::Organisation, self.organisation),
            (Kind::Team, self.team),
            (Kind::User, self.user),
            (Kind::Key, self.key),
            (Kind::Model, self.model),
            (Kind::Target, self.target),
        ];
        let tags = self.tags().map(|tag| (Kind::Tag, tag));
        // Whoever has no tag is a group as well.
        one.into_iter().chain(tags).chain(self.tags.is_empty().then_some((Kind::Tag, "")))
    }
}

impl Grain {
    pub(super) const ALL: [Grain; 3] = [Grain::Minute, Grain::Quarter, Grain::Day];

    pub(super) fn byte(self) -> u8 {
        match self {
            Grain::Minute => b'm',
            Grain::Quarter => b'q',
            Grain::Day => b'd',
        }
    }

    /// In minutes.
    pub fn span(self) -> u32 {
        match self {
            Grain::Minute => 1,
            Grain::Quarter => QUARTER,
            Grain::Day => DAY,
        }
    }
}

impl Kind {
    pub(super) fn of(scope: &Scope) -> Kind {
        match scope {
            Scope::Organisation(_) => Kind::Organisation,
            Scope::Team(_) => Kind::Team,
            Scope::User(_) => Kind::User,
            Scope::Key(_) => Kind::Key,
            Scope::Model(_) => Kind::Model,
            // Its name begins those of its targets.
            Scope::Provider(_) | Scope::Target(_) | Scope::ProviderKey(_) => Kind::Target,
            Scope::Tag(_) => Kind::Tag,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Kind::All => b'a',
            Kind::Organisation => b'o',
            Kind::Team => b't',
            Kind::User => b'u',
            Kind::Key => b'k',
            Kind::Model => b'm',
            Kind::Target => b'p',
            Kind::Tag => b'g',
        }
    }
}

/// The time stands behind the grain, so that key order is time order.
pub(super) fn join(place: Place<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write(place, &mut out);
    out
}

/// The same, in the place of what stood there.
pub(super) fn write(place: Place<'_>, out: &mut Vec<u8>) {
    let Place { grain, at, by, node } = place;
    let By { organisation, team, user, key, model, target, tags } = by;
    let parts = [organisation, team, user, key, model, target, tags, node];
    out.clear();
    out.reserve(13 + parts.iter().map(|part| part.len()).sum::<usize>());
    out.push(grain.byte());
    out.extend_from_slice(&at.0.to_be_bytes());
    for (n, part) in parts.into_iter().enumerate() {
        if n > 0 {
            out.push(0);
        }
        push(part, out);
    }
}

pub(super) fn split(key: &[u8]) -> Option<Place<'_>> {
    let (grain, rest) = key.split_first()?;
    let grain = Grain::ALL.into_iter().find(|known| known.byte() == *grain)?;
    let (at, rest) = rest.split_first_chunk::<4>()?;
    let mut parts = rest.split(|b| *b == 0).map(|part| std::str::from_utf8(part).unwrap_or(""));
    let by = By {
        organisation: parts.next()?,
        team: parts.next()?,
        user: parts.next()?,
        key: parts.next()?,
        model: parts.next()?,
        target: parts.next()?,
        tags: parts.next()?,
    };
    Some(Place { grain, at: Minute(u32::from_be_bytes(*at)), by, node: parts.next()? })
}

/// When the row of a key begins, without a look at the rest.
pub(super) fn time(key: &[u8]) -> Option<Minute> {
    key.get(1..5)?.try_into().ok().map(u32::from_be_bytes).map(Minute)
}

/// Rows of this grain begin with this.
pub(super) fn begin(grain: Grain, at: Minute) -> Vec<u8> {
    std::iter::once(grain.byte()).chain(at.0.to_be_bytes()).collect()
}

/// Where the sum of all that is older lies.
pub(super) fn older(kind: Kind, id: &str, node: &str) -> Vec<u8> {
    let mut out = vec![OLDER, kind.byte()];
    push(id, &mut out);
    out.push(0);
    push(node, &mut out);
    out
}

pub(super) fn older_prefix(kind: Kind) -> [u8; 2] {
    [OLDER, kind.byte()]
}

/// Whose it is, and which gateway's.
pub(super) fn split_older(key: &[u8]) -> Option<(&str, &str)> {
    let mut parts = key.get(2..)?.split(|b| *b == 0).map(|part| std::str::from_utf8(part).unwrap_or(""));
    Some((parts.next()?, parts.next()?))
}

/// A NUL stands in hardly any name: in runs, not byte by byte.
fn push(part: &str, out: &mut Vec<u8>) {
    part.as_bytes().split(|b| *b == 0).for_each(|run| out.extend_from_slice(run));
}

/// Behind each tag of a set: no caller writes it in a header.
pub const TAG_END: char = '\u{1f}';
const OLDER: u8 = b'o';
pub const QUARTER: u32 = 15;
pub const DAY: u32 = 24 * 60;
