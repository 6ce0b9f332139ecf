//! Organisations, teams, users and service accounts in the store: made, listed, changed, deleted. What stands in gateway.toml
//! wins and is changed there. Whether somebody may do this is asked here too, where it takes more than the route's permission:
//! roles are given only by who holds them.

use std::{sync::Arc, time::SystemTime};

use serde_json::{Map, Value};

use super::{
    Keys,
    directory::{Directory, Identity, Sort},
    expiry,
    keys::{damaged, failed},
    permission::{Actor, Held, Operation, may_give, permits},
    row::IdentityRow,
    shown::{show, show_configured},
    terms,
};
use crate::{
    config::{Over, identity},
    error::{Error, Kind, Result},
    store::{self, Op},
};

/// What a path of the API is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    Organisation,
    Team,
    User,
    ServiceAccount,
}

impl Thing {
    pub const fn sort(self) -> Sort {
        match self {
            Thing::Organisation => Sort::Organisation,
            Thing::Team => Sort::Team,
            Thing::User | Thing::ServiceAccount => Sort::User,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Thing::Organisation => "organisation",
            Thing::Team => "team",
            Thing::User => "user",
            Thing::ServiceAccount => "service account",
        }
    }

    pub const fn reads(self) -> Operation {
        match self {
            Thing::Organisation => Operation::ReadOrganisations,
            Thing::Team => Operation::ReadTeams,
            Thing::User | Thing::ServiceAccount => Operation::ReadUsers,
        }
    }

    pub const fn changes(self) -> Operation {
        match self {
            Thing::Organisation => Operation::ChangeOrganisations,
            Thing::Team => Operation::ChangeTeams,
            Thing::User | Thing::ServiceAccount => Operation::ChangeUsers,
        }
    }

    fn is(self, identity: &Identity) -> bool {
        match self {
            Thing::User => !identity.service,
            Thing::ServiceAccount => identity.service,
            Thing::Organisation | Thing::Team => true,
        }
    }
}

impl Keys {
    /// All that the actor may see, by name.
    pub async fn identities(&self, thing: Thing, actor: &Actor) -> Result<Vec<Value>> {
        let names: Vec<(Arc<str>, bool)> = {
            let directory = self.table.directory();
            let all = directory.all(thing.sort()).into_iter().filter(|(_, identity)| thing.is(identity));
            let seen = all.filter(|(_, identity)| {
                permits(actor, thing.reads(), &directory.target(thing.sort(), identity, false)).is_ok()
            });
            seen.map(|(name, _)| (name.clone(), directory.in_file(thing.sort(), &name))).collect()
        };
        let mut rows = Vec::new();
        for (name, in_file) in names {
            rows.extend(self.shown(thing, &name, in_file).await?);
        }
        Ok(rows)
    }

    pub async fn identity(&self, thing: Thing, name: &str, actor: &Actor) -> Result<Value> {
        let in_file = {
            let directory = self.table.directory();
            let identity = found(&directory, thing, name)?;
            permits(actor, thing.reads(), &directory.target(thing.sort(), &identity, false))?;
            directory.in_file(thing.sort(), name)
        };
        self.shown(thing, name, in_file).await?.ok_or_else(|| unknown(thing, name))
    }

    pub async fn create_identity(&self, thing: Thing, body: Value, actor: &Actor) -> Result<Value> {
        let mut body = super::row::object(body)?;
        let mut name = None::<String>;
        terms::set(&mut body, "name", &mut name)?;
        let name = name.ok_or_else(|| Error::invalid("name", format!("a {} needs a name", thing.name())))?;
        identity::name(&name).map_err(|e| Error::invalid("name", e))?;
        let mut row = IdentityRow {
            service: thing == Thing::ServiceAccount,
            created: expiry::to_seconds(SystemTime::now()),
            ..IdentityRow::default()
        };
        take(thing, &mut row, &mut body)?;
        row.terms.resolve()?;
        let mut turn = self.revisions.turn().await;
        {
            let directory = self.table.directory();
            if let Some(there) = directory.get(thing.sort(), &name) {
                let kind = if there.service { "service account" } else { thing.sort().name() };
                let place = if directory.in_file(thing.sort(), &name) { " in gateway.toml, which wins" } else { "" };
                let message =
                    format!("there is a {kind} {name:?} already{place}: take another name, or change that one");
                return Err(Error::invalid("name", message).with_status(409).with_code("exists"));
            }
            let is = row.identity(thing.sort(), &Arc::from(name.as_str()))?;
            check(&directory, thing, &name, &is)?;
            self.allowed(&directory, thing, None, &is, actor)?;
        }
        let nothing = Op::remove(store::Table::Identities, key(thing.sort(), &name));
        turn.write(&[nothing], vec![put(thing.sort(), &name, &row)?]).await?;
        let identity = row.identity(thing.sort(), &Arc::from(name.as_str()))?;
        self.table.set_identity(thing.sort(), &name, Some(identity));
        Ok(show(thing, &name, &row))
    }

    pub async fn change_identity(&self, thing: Thing, name: &str, body: Value, actor: &Actor) -> Result<Value> {
        {
            let directory = self.table.directory();
            let identity = found(&directory, thing, name)?;
            permits(actor, thing.changes(), &directory.target(thing.sort(), &identity, true))?;
        }
        let mut body = super::row::object(body)?;
        if body.is_empty() {
            return Err(Error::new(Kind::InvalidRequest, "nothing to change was named; see /api/openapi.json"));
        }
        let mut turn = self.revisions.turn().await;
        let (mut row, before) = self.stored(thing, name).await?;
        let was = row.identity(thing.sort(), &Arc::from(name))?;
        take(thing, &mut row, &mut body)?;
        row.terms.resolve()?;
        let is = row.identity(thing.sort(), &Arc::from(name))?;
        {
            let directory = self.table.directory();
            check(&directory, thing, name, &is)?;
            self.allowed(&directory, thing, Some(&was), &is, actor)?;
        }
        turn.write(&[before], vec![put(thing.sort(), name, &row)?]).await?;
        self.table.set_identity(thing.sort(), name, Some(is));
        Ok(show(thing, name, &row))
    }

    /// Refused while others belong to it; `keys`: its keys are revoked with it, and with a user its admin tokens.
    pub async fn delete_identity(&self, thing: Thing, name: &str, keys: bool, actor: &Actor) -> Result<Value> {
        let (row, before, owned) = {
            let turn = self.revisions.turn().await;
            let (row, before) = self.stored(thing, name).await?;
            let identity = row.identity(thing.sort(), &Arc::from(name))?;
            {
                let directory = self.table.directory();
                self.allowed(&directory, thing, Some(&identity), &identity, actor)?;
                members(&directory, thing, name)?;
            }
            let owned = self.owned(thing, name).await?;
            drop(turn);
            (row, before, owned)
        };
        let (owned_keys, owned_tokens) = owned;
        if !keys && (!owned_keys.is_empty() || !owned_tokens.is_empty()) {
            let message = format!(
                "{} {name} has {} keys and {} admin tokens: revoke them first, or ask for both at once (?keys=revoke)",
                thing.name(),
                owned_keys.len(),
                owned_tokens.len()
            );
            return Err(Error::new(Kind::InvalidRequest, message).with_status(409).with_code("in_use"));
        }
        for id in &owned_keys {
            self.revoke(id, true).await?;
        }
        for id in &owned_tokens {
            self.revoke_token(id).await?;
        }
        let mut turn = self.revisions.turn().await;
        turn.write(&[before], vec![Op::remove(store::Table::Identities, key(thing.sort(), name))]).await?;
        self.table.set_identity(thing.sort(), name, None);
        let mut answer = show(thing, name, &row);
        answer["deleted"] = true.into();
        answer["revoked_keys"] = owned_keys.len().into();
        Ok(answer)
    }

    /// Keys that still work, and admin tokens, that belong to it.
    async fn owned(&self, thing: Thing, name: &str) -> Result<(Vec<String>, Vec<String>)> {
        let mut keys = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.list(after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            let its = page.iter().filter(|key| key.status != "revoked").filter(|key| match thing.sort() {
                Sort::Team => key.team.as_deref() == Some(name),
                Sort::User => key.user.as_deref() == Some(name),
                Sort::Organisation => false,
            });
            keys.extend(its.map(|key| key.id.clone()));
        }
        let scope = |token: &Value| match thing.sort() {
            Sort::Organisation => token["organisation"] == *name,
            Sort::Team => token["team"] == *name,
            Sort::User => token["user"] == *name,
        };
        let tokens = self.token_rows().await?.into_iter().filter(|token| token["status"] != "revoked" && scope(token));
        Ok((keys, tokens.filter_map(|token| token["id"].as_str().map(str::to_owned)).collect()))
    }

    /// May this actor make that of it? Beyond the permission to change it: roles before and after must be its to give.
    fn allowed(
        &self,
        directory: &Directory,
        thing: Thing,
        was: Option<&Identity>,
        is: &Identity,
        actor: &Actor,
    ) -> Result<()> {
        for identity in was.into_iter().chain([is]) {
            permits(actor, thing.changes(), &directory.target(thing.sort(), identity, true))?;
        }
        if thing.sort() != Sort::User {
            return Ok(());
        }
        let name = &is.bound.name;
        let held = |identity: &Identity| directory.holds(name, &Identity { disabled: false, ..identity.clone() });
        let rights = |identity: &Identity| (identity.roles.clone(), identity.teams.clone(), identity.disabled);
        if actor.user.as_ref() == Some(name) && was.is_none_or(|was| rights(was) != rights(is)) {
            let message = "nobody changes the roles and teams that he has himself: somebody else must";
            return Err(Error::new(Kind::Forbidden, message).with_code("not_permitted").at("roles"));
        }
        let all: Vec<Held> = was.map(held).into_iter().flatten().chain(held(is)).collect();
        // A reach over this user lies where it will lie.
        may_give(actor, &all, |reach| match reach {
            super::permission::Reach::User(user) if user == name => directory.target(Sort::User, is, true),
            _ => directory.lies(reach),
        })
    }

    async fn stored(&self, thing: Thing, name: &str) -> Result<(IdentityRow, Op)> {
        let identity = found(&self.table.directory(), thing, name)?;
        if self.table.directory().in_file(thing.sort(), name) {
            let section = thing.sort().name();
            let message = format!(
                "{} {name} stands in gateway.toml ([{section}s.{name}]), which wins over the store: change it there",
                thing.name()
            );
            return Err(Error::new(Kind::InvalidRequest, message).with_status(409).with_code("in_file"));
        }
        let key = key(thing.sort(), &identity.bound.name);
        let value = self.store.read(store::Table::Identities, key.as_bytes()).await.map_err(failed)?;
        let value = value.ok_or_else(|| unknown(thing, name))?;
        let row = serde_json::from_slice(&value).map_err(|e| damaged(thing.name(), key.as_bytes(), &e.to_string()))?;
        Ok((row, Op::put(store::Table::Identities, key, value)))
    }

    /// As an answer shows it; what stands in the file has no row.
    async fn shown(&self, thing: Thing, name: &str, in_file: bool) -> Result<Option<Value>> {
        let key = key(thing.sort(), name);
        let row = self.store.read(store::Table::Identities, key.as_bytes()).await.map_err(failed)?;
        if !in_file {
            let Some(row) = row else { return Ok(None) };
            let row =
                serde_json::from_slice(&row).map_err(|e| damaged(thing.name(), key.as_bytes(), &e.to_string()))?;
            return Ok(Some(show(thing, name, &row)));
        }
        let directory = self.table.directory();
        let Some(identity) = directory.get(thing.sort(), name) else { return Ok(None) };
        Ok(Some(show_configured(thing, name, identity, row.is_some())))
    }
}

/// Takes over what a body names.
fn take(thing: Thing, row: &mut IdentityRow, body: &mut Map<String, Value>) -> Result<()> {
    row.terms.take(body)?;
    (row.disabled, row.cut) = terms::disabled(body, (row.disabled, row.cut))?;
    let known: &[&str] = match thing {
        Thing::Organisation => &["disabled", "cut"],
        Thing::Team => {
            terms::set(body, "organisation", &mut row.organisation)?;
            &["organisation", "disabled", "cut"]
        }
        Thing::User | Thing::ServiceAccount => {
            terms::set(body, "organisation", &mut row.organisation)?;
            let (mut teams, mut roles) = (Some(row.teams.clone()), Some(row.roles.clone()));
            terms::set(body, "teams", &mut teams)?;
            terms::set(body, "roles", &mut roles)?;
            terms::set(body, "email", &mut row.email)?;
            row.teams = teams.unwrap_or_default();
            row.roles = roles.unwrap_or_default();
            &["organisation", "teams", "roles", "email", "disabled", "cut"]
        }
    };
    terms::nothing_left(body, known)
}

/// Names that it refers to are there.
fn check(directory: &Directory, thing: Thing, name: &str, identity: &Identity) -> Result<()> {
    let there = |param: String, sort: Sort, of: &str| match directory.get(sort, of) {
        Some(_) => Ok(()),
        None => Err(Error::invalid(param, format!("there is no {} {of:?}: make it first", sort.name()))),
    };
    if let Some(organisation) = &identity.organisation {
        if !identity.teams.is_empty() {
            return Err(Error::invalid("organisation", "it is for users without a team: a team has its own"));
        }
        there("organisation".to_owned(), Sort::Organisation, organisation)?;
    }
    for (n, team) in identity.teams.iter().enumerate() {
        there(format!("teams[{n}]"), Sort::Team, team)?;
        if identity.teams[..n].contains(team) {
            return Err(Error::invalid(format!("teams[{n}]"), format!("the team {team} is named twice")));
        }
    }
    for (n, grant) in identity.roles.iter().enumerate() {
        let param = format!("roles[{n}]");
        match &grant.over {
            Over::Team(team) => there(param, Sort::Team, team)?,
            Over::Organisation(of) => there(param, Sort::Organisation, of)?,
            _ => {}
        }
        if identity.roles[..n].contains(grant) {
            return Err(Error::invalid(format!("roles[{n}]"), format!("the role {grant} is named twice")));
        }
    }
    if let Some(email) = &identity.email {
        let plain = email.len() <= 320 && email.split_once('@').is_some_and(|(a, b)| !a.is_empty() && b.contains('.'));
        if !plain || email.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Error::invalid("email", format!("{email:?} is no e-mail address")));
        }
        let same = |(other, user): &(Arc<str>, Arc<Identity>)| &**other != name && user.email.as_ref() == Some(email);
        if let Some((other, _)) = directory.all(Sort::User).iter().find(|pair| thing.sort() == Sort::User && same(pair))
        {
            return Err(Error::invalid("email", format!("user {other} has this address already")).with_status(409));
        }
    }
    Ok(())
}

/// Nobody belongs to it any more, or a sentence that says who does.
fn members(directory: &Directory, thing: Thing, name: &str) -> Result<()> {
    let mut left: Vec<String> = Vec::new();
    let within = |organisation: &Option<Arc<str>>| organisation.as_deref() == Some(name);
    match thing.sort() {
        Sort::Organisation => {
            let teams = directory.all(Sort::Team).into_iter().filter(|(_, team)| within(&team.organisation));
            left.extend(teams.map(|(team, _)| format!("team {team}")));
            let users = directory.all(Sort::User).into_iter().filter(|(_, user)| within(&user.organisation));
            left.extend(users.map(|(user, _)| format!("user {user}")));
        }
        Sort::Team => left.extend(directory.members(name).into_iter().map(|user| format!("user {user}"))),
        Sort::User => {}
    }
    if left.is_empty() {
        return Ok(());
    }
    let more = if left.len() > 5 { format!(" and {} more", left.len() - 5) } else { String::new() };
    left.truncate(5);
    let message = format!(
        "{} {name} cannot be deleted while others belong to it: {}{more}. Move or delete them first",
        thing.name(),
        left.join(", ")
    );
    Err(Error::new(Kind::InvalidRequest, message).with_status(409).with_code("in_use"))
}

fn found(directory: &Directory, thing: Thing, name: &str) -> Result<Arc<Identity>> {
    let identity = directory.get(thing.sort(), name).filter(|identity| thing.is(identity));
    identity.cloned().ok_or_else(|| unknown(thing, name))
}

fn unknown(thing: Thing, name: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no {} {name:?}; list them to see their names", thing.name()))
}

fn put(sort: Sort, name: &str, row: &IdentityRow) -> Result<Op> {
    let value =
        serde_json::to_vec(row).map_err(|e| Error::new(Kind::Internal, "the row could not be written").because(e))?;
    Ok(Op::put(store::Table::Identities, key(sort, name), value))
}

fn key(sort: Sort, name: &str) -> String {
    let letter = match sort {
        Sort::Organisation => 'o',
        Sort::Team => 't',
        Sort::User => 'u',
    };
    format!("{letter}/{name}")
}

/// A row of the table of identities, as it was read.
pub(super) fn parse_identity<'a>(key: &'a [u8], value: Option<&[u8]>) -> Result<(Sort, &'a str, Option<Identity>)> {
    let text = std::str::from_utf8(key).map_err(|e| damaged("identity", key, &e.to_string()))?;
    let (sort, name) = match text.split_once('/') {
        Some(("o", name)) => (Sort::Organisation, name),
        Some(("t", name)) => (Sort::Team, name),
        Some(("u", name)) => (Sort::User, name),
        _ => return Err(damaged("identity", key, "its key")),
    };
    let Some(value) = value else { return Ok((sort, name, None)) };
    let row: IdentityRow = serde_json::from_slice(value).map_err(|e| damaged("identity", key, &e.to_string()))?;
    let identity = row.identity(sort, &Arc::from(name)).map_err(|e| damaged("identity", key, &e.message))?;
    Ok((sort, name, Some(identity)))
}

const PAGE: usize = 1_000;
