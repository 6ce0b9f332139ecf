//! Tokens of the admin API: scoped, of a role or of a user, with an end. Only their keyed hash is kept. Says who acts with
//! one; what that actor may do stands in `permission`.

use std::{sync::Arc, time::SystemTime};

use serde_json::{Map, Value};

use super::{
    Keys, credential,
    directory::{Directory, Sort},
    expiry,
    keys::{check_name, damaged, failed, last4, new_id, no_randomness, whole_second},
    permission::{Actor, Held, Reach, Target, covered, may_give},
    row::TokenRow,
    terms, unwritten,
};
use crate::{
    config::{Grant, Over, Secret, identity},
    error::{Error, Kind, Result},
    store::{self, Op, hex},
};

/// What a new token may do.
#[derive(Debug, Clone, Default)]
pub struct NewToken {
    pub name: String,
    /// On whose behalf.
    pub user: Option<String>,
    /// Over what its roles are held; with none of these three: over everything.
    pub team: Option<String>,
    pub organisation: Option<String>,
    pub roles: Vec<String>,
    pub expires: Option<SystemTime>,
}

impl NewToken {
    pub fn read(mut body: Map<String, Value>, now: SystemTime) -> Result<NewToken> {
        let (mut name, mut roles, mut role, mut expires) = (None, None::<Vec<String>>, None::<String>, None::<String>);
        let mut new = NewToken::default();
        terms::set(&mut body, "name", &mut name)?;
        terms::set(&mut body, "user", &mut new.user)?;
        terms::set(&mut body, "team", &mut new.team)?;
        terms::set(&mut body, "organisation", &mut new.organisation)?;
        terms::set(&mut body, "roles", &mut roles)?;
        terms::set(&mut body, "role", &mut role)?;
        terms::set(&mut body, "expires", &mut expires)?;
        if let Some(other) = body.keys().next() {
            let known = "name, user, team, organisation, roles, expires";
            return Err(Error::invalid(other, format!("there is no field {other:?}; there are {known}")));
        }
        new.name = name.ok_or_else(|| Error::invalid("name", "a token needs a name: whose or what it is for"))?;
        new.roles = roles.unwrap_or_default();
        new.roles.extend(role);
        let expires = expires.map(|text| expiry::parse(&text, now)).transpose();
        new.expires = expires.map_err(|message| Error::invalid("expires", message))?;
        Ok(new)
    }
}

impl Keys {
    /// Who acts with this token of the admin API.
    pub fn actor(&self, presented: &str, now: SystemTime) -> Result<Actor> {
        let refuse =
            |code: &'static str, message: &str| Err(Error::new(Kind::Unauthenticated, message).with_code(code));
        let Some(token) = self.table.token(presented) else {
            return refuse("invalid_token", "this admin token is not known here; `portcullis tokens create` makes one");
        };
        if token.row.revoked.is_some() {
            return refuse("token_revoked", "this admin token was revoked; ask for a new one");
        }
        if token.row.expires.is_some_and(|at| expiry::from_seconds(at) <= now) {
            return refuse("token_expired", "this admin token has expired; ask for a new one");
        }
        actor_of(&self.table.directory(), &token.id, &token.row)
    }

    /// The secret is shown this once: only its hash is kept.
    pub async fn create_token(&self, new: NewToken, actor: &Actor) -> Result<(Value, Secret)> {
        let now = SystemTime::now();
        check_name(&new.name)?;
        if new.expires.is_some_and(|at| at <= now) {
            return Err(Error::invalid("expires", "the expiry lies in the past"));
        }
        if [&new.user, &new.team, &new.organisation].into_iter().flatten().count() > 1 {
            let message = "a token is for one of a user, a team or an organisation: make one for each";
            return Err(Error::invalid("team", message));
        }
        if new.roles.is_empty() && new.user.is_none() {
            return Err(Error::invalid("roles", "a token that is no user's needs a role, such as viewer or billing"));
        }
        let secret = credential::mint_token().map_err(|_| no_randomness())?;
        let hash = self.table.hash(secret.expose());
        let row = TokenRow {
            name: new.name.trim().to_owned(),
            user: new.user,
            roles: new.roles,
            team: new.team,
            organisation: new.organisation,
            created: expiry::to_seconds(now),
            expires: new.expires.map(whole_second),
            revoked: None,
            hash: hex::encode(&hash),
            last4: last4(&secret),
            by: Some(actor.name.to_string()),
        };
        let id = new_id(ID_PREFIX, now)?;
        let mut turn = self.revisions.turn().await;
        {
            let directory = self.table.directory();
            there(&directory, &row)?;
            let wanted = wanted(&directory, &row)?;
            may_give(actor, &wanted, |reach| directory.lies(reach))?;
        }
        turn.write(&[], vec![put(&id, &row)?]).await?;
        self.table.set_token(&id, row.clone(), hash);
        Ok((row.json(&id, now), secret))
    }

    /// The id and the name of a token, whether it is still good or not: for telling of a refusal.
    pub fn token_of(&self, presented: &str) -> Option<(String, String)> {
        let token = self.table.token(presented)?;
        Some((token.id.to_string(), actor_name(&token.id, &token.row)))
    }

    /// All of them, oldest first.
    pub async fn token_rows(&self) -> Result<Vec<Value>> {
        let now = SystemTime::now();
        let mut all = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store.scan(store::Table::Tokens, b"", after.as_deref(), PAGE).await.map_err(failed)?;
            for (id, value) in &page {
                let (id, row) = parse(id, value)?;
                all.push(row.json(id, now));
            }
            match page.into_iter().last() {
                Some((last, _)) => after = Some(last),
                None => return Ok(all),
            }
        }
    }

    pub async fn one_token(&self, id: &str) -> Result<Value> {
        Ok(self.token_row(id).await?.0.json(id, SystemTime::now()))
    }

    /// A second revocation changes nothing.
    pub async fn revoke_token(&self, id: &str) -> Result<Value> {
        let mut turn = self.revisions.turn().await;
        let now = SystemTime::now();
        let (mut row, before) = self.token_row(id).await?;
        if row.revoked.is_none() {
            row.revoked = Some(expiry::to_seconds(now));
            let hash = hex::decode(&row.hash).ok_or_else(|| damaged("token", id.as_bytes(), "hash"))?;
            self.table.set_token(id, row.clone(), hash);
            turn.write(&[before], vec![put(id, &row)?]).await.map_err(|error| unwritten::token(id, error))?;
        }
        Ok(row.json(id, now))
    }

    /// What a token's row touches, for who asks whether it may be seen or revoked.
    pub fn token_target(&self, token: &Value) -> Target {
        let directory = self.table.directory();
        let text = |field: &str| token[field].as_str();
        match (text("user"), text("team"), text("organisation")) {
            (Some(user), ..) => Target::Of(directory.place(None, Some(user))),
            (_, Some(team), _) => directory.lies(&Reach::Team(team.into())),
            (.., Some(of)) => directory.lies(&Reach::Organisation(of.into())),
            _ => Target::Gateway,
        }
    }

    async fn token_row(&self, id: &str) -> Result<(TokenRow, Op)> {
        let unknown =
            || Error::new(Kind::NotFound, format!("no admin token has the id {id:?}; list them to see theirs"));
        if !id.starts_with(ID_PREFIX) || id.len() > identity::MOST_NAME {
            return Err(unknown());
        }
        let value = self.store.read(store::Table::Tokens, id.as_bytes()).await.map_err(failed)?.ok_or_else(unknown)?;
        let (_, row) = parse(id.as_bytes(), &value)?;
        Ok((row, Op::put(store::Table::Tokens, id, value)))
    }
}

fn actor_of(directory: &Directory, id: &Arc<str>, row: &TokenRow) -> Result<Actor> {
    let mut holds = wanted(directory, row)?;
    let user = row.user.as_deref().and_then(|user| directory.get(Sort::User, user));
    if let Some(name) = &row.user {
        let Some(user) = user.filter(|user| !user.disabled) else {
            let message = format!("user {name}, on whose behalf this token acts, is gone or disabled");
            return Err(Error::new(Kind::Unauthenticated, message).with_code("user_disabled"));
        };
        // Never more than its user may at this moment.
        let own = directory.holds(&user.bound.name, user);
        holds.retain(|held| covered(&own, held, &directory.lies(&held.reach)));
    }
    let name = actor_name(id, row);
    let user = user.map(|user| user.bound.name.clone());
    Ok(Actor { name: name.into(), user, token: Some(id.clone()), holds: holds.into(), ..Actor::default() })
}

fn actor_name(id: &str, row: &TokenRow) -> String {
    format!("token {} ({id})", row.name)
}

/// What the token says that it holds.
fn wanted(directory: &Directory, row: &TokenRow) -> Result<Vec<Held>> {
    let user = row.user.as_deref().and_then(|user| directory.get(Sort::User, user));
    if let (true, Some(user)) = (row.roles.is_empty(), user) {
        return Ok(directory.holds(&user.bound.name, user));
    }
    let mut holds = Vec::new();
    for (n, role) in row.roles.iter().enumerate() {
        let Grant { role, over } = Grant::parse(role).map_err(|e| Error::invalid(format!("roles[{n}]"), e))?;
        let reaches = match (over, user, &row.team, &row.organisation) {
            (Over::Everything, ..) => vec![Reach::Everything],
            (Over::Team(team), ..) => vec![Reach::Team(team)],
            (Over::Organisation(of), ..) => vec![Reach::Organisation(of)],
            (Over::Oneself, Some(user), ..) => vec![Reach::User(user.bound.name.clone())],
            (Over::Oneself, None, ..) => {
                return Err(Error::invalid(format!("roles[{n}]"), "`@self` is for tokens of a user"));
            }
            (Over::Belonging, Some(user), ..) => {
                let mut like = (**user).clone();
                like.roles = vec![Grant { role, over: Over::Belonging }];
                directory.holds(&user.bound.name, &like).into_iter().map(|held| held.reach).collect()
            }
            (Over::Belonging, None, Some(team), _) => vec![Reach::Team(team.as_str().into())],
            (Over::Belonging, None, None, Some(of)) => vec![Reach::Organisation(of.as_str().into())],
            (Over::Belonging, None, None, None) => vec![Reach::Everything],
        };
        holds.extend(reaches.into_iter().map(|reach| Held { role, reach }));
    }
    Ok(holds)
}

/// Who and what it names is there.
fn there(directory: &Directory, row: &TokenRow) -> Result<()> {
    let named = [
        ("user", Sort::User, &row.user),
        ("team", Sort::Team, &row.team),
        ("organisation", Sort::Organisation, &row.organisation),
    ];
    for (param, sort, name) in named {
        if let Some(name) = name.as_deref().filter(|name| directory.get(sort, name).is_none()) {
            return Err(Error::invalid(param, format!("there is no {param} {name:?}: make it first")));
        }
    }
    for (n, role) in row.roles.iter().enumerate() {
        let param = || format!("roles[{n}]");
        let (sort, name) = match Grant::parse(role).map_err(|e| Error::invalid(param(), e))?.over {
            Over::Team(team) => (Sort::Team, team),
            Over::Organisation(of) => (Sort::Organisation, of),
            _ => continue,
        };
        if directory.get(sort, &name).is_none() {
            return Err(Error::invalid(param(), format!("there is no {} {name:?}", sort.name())));
        }
    }
    Ok(())
}

fn put(id: &str, row: &TokenRow) -> Result<Op> {
    let value = serde_json::to_vec(row)
        .map_err(|e| Error::new(Kind::Internal, "the token's row could not be written").because(e))?;
    Ok(Op::put(store::Table::Tokens, id, value))
}

fn parse<'a>(id: &'a [u8], value: &[u8]) -> Result<(&'a str, TokenRow)> {
    let text = std::str::from_utf8(id).map_err(|e| damaged("token", id, &e.to_string()))?;
    let row = serde_json::from_slice(value).map_err(|e| damaged("token", id, &e.to_string()))?;
    Ok((text, row))
}

const ID_PREFIX: &str = "tok_";
const PAGE: usize = 1_000;
