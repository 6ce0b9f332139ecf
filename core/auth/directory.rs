//! Organisations, teams and users in memory, from gateway.toml and from the store; the file wins. Says where a thing
//! belongs, which roles somebody holds, and what binds a caller. Changes nothing by itself.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

mod claimed;

pub(in crate::auth) use claimed::Claimed;

use super::{
    Lists, Principal,
    bound::Bound,
    permission::{Actor, Held, Membership, Operation, Place, Reach, Target, permits},
};
use crate::{
    config::{Configured, Grant, Over, Role, Scope, Terms, User},
    error::{Error, Kind},
};

/// What kind of name it is. Users and service accounts share their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sort {
    Organisation,
    Team,
    User,
}

/// One organisation, team or user.
#[derive(Debug, Clone)]
pub struct Identity {
    pub organisation: Option<Arc<str>>,
    pub teams: Vec<Arc<str>>,
    pub email: Option<Arc<str>>,
    pub roles: Vec<Grant>,
    /// Their names, as its callers carry them.
    pub role_names: Arc<[String]>,
    /// No person.
    pub service: bool,
    /// Nobody who belongs to it is served.
    pub disabled: bool,
    /// And what ran was ended.
    pub cut: bool,
    pub bound: Arc<Bound>,
}

#[derive(Debug, Default)]
pub struct Directory {
    file: Names,
    store: Names,
    /// What binds callers by their team and organisation alone: nearly all callers, so each is put together once.
    lists: Mutex<HashMap<[Option<Arc<str>>; 2], Lists>>,
}

/// By sort, then by name.
type Names = [BTreeMap<Arc<str>, Arc<Identity>>; 3];

impl Sort {
    pub const ALL: [Sort; 3] = [Sort::Organisation, Sort::Team, Sort::User];

    pub const fn name(self) -> &'static str {
        match self {
            Sort::Organisation => "organisation",
            Sort::Team => "team",
            Sort::User => "user",
        }
    }

    pub fn scope(self, name: &Arc<str>) -> Scope {
        match self {
            Sort::Organisation => Scope::Organisation(name.clone()),
            Sort::Team => Scope::Team(name.clone()),
            Sort::User => Scope::User(name.clone()),
        }
    }
}

impl Identity {
    pub fn of(sort: Sort, name: &Arc<str>, terms: Terms) -> Identity {
        let bound = Bound::new(sort.scope(name), name, terms);
        Identity {
            organisation: None,
            teams: Vec::new(),
            email: None,
            roles: Vec::new(),
            role_names: Arc::default(),
            service: false,
            disabled: false,
            cut: false,
            bound,
        }
    }

    /// Nobody of it is served, and what ran was ended.
    pub fn was_cut(&self) -> bool {
        self.disabled && self.cut
    }

    fn of_user(name: &Arc<str>, user: &User) -> Identity {
        Identity {
            organisation: user.organisation.as_deref().map(Arc::from),
            teams: user.teams.iter().map(|team| Arc::from(team.as_str())).collect(),
            email: user.email.as_deref().map(Arc::from),
            roles: user.roles.clone(),
            role_names: names_of(&user.roles),
            service: user.service,
            disabled: user.disabled,
            cut: user.cut,
            ..Identity::of(Sort::User, name, user.terms.clone())
        }
    }
}

impl Directory {
    /// Of a configuration alone.
    pub fn configured(who: Configured<'_>) -> Directory {
        let mut directory = Directory::default();
        directory.configure(who);
        directory
    }

    /// Takes over what gateway.toml says.
    pub fn configure(&mut self, who: Configured<'_>) {
        let mut file = Names::default();
        let mut add = |sort: Sort, name: &str, make: &dyn Fn(&Arc<str>) -> Identity| {
            let name: Arc<str> = name.into();
            let identity = Arc::new(make(&name));
            file[sort as usize].insert(name, identity);
        };
        for (name, organisation) in who.organisations {
            add(Sort::Organisation, name, &|n| Identity {
                disabled: organisation.disabled,
                cut: organisation.cut,
                ..Identity::of(Sort::Organisation, n, organisation.terms.clone())
            });
        }
        for (name, team) in who.teams {
            add(Sort::Team, name, &|n| Identity {
                organisation: team.organisation.as_deref().map(Arc::from),
                disabled: team.disabled,
                cut: team.cut,
                ..Identity::of(Sort::Team, n, team.terms())
            });
        }
        for (name, user) in who.users {
            add(Sort::User, name, &|n| Identity::of_user(n, user));
        }
        self.file = file;
        self.shared().clear();
    }

    /// A row of the store, or that it is gone.
    pub fn put(&mut self, sort: Sort, name: &str, identity: Option<Identity>) {
        match identity {
            Some(mut identity) => {
                identity.teams = identity.teams.iter().map(|team| self.known(Sort::Team, team)).collect();
                identity.organisation = identity.organisation.map(|of| self.known(Sort::Organisation, &of));
                drop(self.store[sort as usize].insert(identity.bound.name.clone(), Arc::new(identity)));
            }
            None => drop(self.store[sort as usize].remove(name)),
        }
        let is = |held: &Option<Arc<str>>| held.as_deref() == Some(name);
        match sort {
            Sort::Team => self.shared().retain(|[team, _], _| !is(team)),
            Sort::Organisation => self.shared().retain(|[_, organisation], _| !is(organisation)),
            Sort::User => {}
        }
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, HashMap<[Option<Arc<str>>; 2], Lists>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, sort: Sort, name: &str) -> Option<&Arc<Identity>> {
        self.file[sort as usize].get(name).or_else(|| self.store[sort as usize].get(name))
    }

    /// It stands in gateway.toml.
    pub fn in_file(&self, sort: Sort, name: &str) -> bool {
        self.file[sort as usize].contains_key(name)
    }

    /// All of a sort, by name.
    pub fn all(&self, sort: Sort) -> Vec<(Arc<str>, Arc<Identity>)> {
        let mut all = self.store[sort as usize].clone();
        all.extend(self.file[sort as usize].clone());
        all.into_iter().collect()
    }

    /// Users in that team.
    pub fn members(&self, team: &str) -> Vec<Arc<str>> {
        let within = |(_, user): &(Arc<str>, Arc<Identity>)| user.teams.iter().any(|t| &**t == team);
        self.all(Sort::User).into_iter().filter(within).map(|(name, _)| name).collect()
    }

    /// The known name, so that many keys share one.
    fn known(&self, sort: Sort, name: &str) -> Arc<str> {
        self.get(sort, name).map_or_else(|| name.into(), |identity| identity.bound.name.clone())
    }

    fn membership(&self, team: &Arc<str>) -> Membership {
        let organisation = self.get(Sort::Team, team).and_then(|team| team.organisation.clone());
        Membership { organisation, team: Some(team.clone()) }
    }

    /// Where a thing belongs that is this team's and this user's. A user's own teams count where no team is named.
    pub fn place(&self, team: Option<&str>, user: Option<&str>) -> Place {
        let user_name = user.map(|user| self.known(Sort::User, user));
        let teams = match (team, user.and_then(|user| self.get(Sort::User, user))) {
            (Some(team), _) => vec![self.membership(&self.known(Sort::Team, team))],
            (None, Some(user)) => self.memberships(user),
            (None, None) => Vec::new(),
        };
        Place { teams, user: user_name }
    }

    fn memberships(&self, user: &Identity) -> Vec<Membership> {
        match (&user.organisation, user.teams.as_slice()) {
            (Some(organisation), []) => vec![Membership { organisation: Some(organisation.clone()), team: None }],
            (_, teams) => teams.iter().map(|team| self.membership(team)).collect(),
        }
    }

    /// What is touched when this identity is read, or changed: what binds somebody is not changed by whoever it binds.
    pub fn target(&self, sort: Sort, identity: &Identity, changes: bool) -> Target {
        let name = &identity.bound.name;
        let place = match sort {
            Sort::Organisation if changes => return Target::Gateway,
            Sort::Organisation => {
                Place { teams: vec![Membership { organisation: Some(name.clone()), team: None }], user: None }
            }
            Sort::Team => {
                let team = (!changes).then(|| name.clone());
                match (&identity.organisation, &team) {
                    (None, None) => return Target::Gateway,
                    _ => Place {
                        teams: vec![Membership { organisation: identity.organisation.clone(), team }],
                        user: None,
                    },
                }
            }
            Sort::User => Place { teams: self.memberships(identity), user: (!changes).then(|| name.clone()) },
        };
        if place == Place::default() { Target::Gateway } else { Target::Of(place) }
    }

    /// Where a reach lies, for who gives a role over it.
    pub fn lies(&self, reach: &Reach) -> Target {
        match reach {
            Reach::Everything => Target::Gateway,
            Reach::Organisation(name) => Target::Of(Place {
                teams: vec![Membership { organisation: Some(name.clone()), team: None }],
                user: None,
            }),
            Reach::Team(name) => Target::Of(Place { teams: vec![self.membership(name)], user: None }),
            Reach::User(name) => Target::Of(self.place(None, Some(name))),
        }
    }

    /// What a user holds: of its own, or a developer's right where it has no role at all.
    pub fn holds(&self, name: &Arc<str>, user: &Identity) -> Vec<Held> {
        if user.disabled {
            return Vec::new();
        }
        let usual = [Grant { role: Role::Developer, over: Over::Belonging }];
        let roles = if user.roles.is_empty() { &usual[..] } else { &user.roles };
        let mut holds = Vec::new();
        for Grant { role, over } in roles {
            let reaches = match over {
                Over::Everything => vec![Reach::Everything],
                Over::Organisation(name) => vec![Reach::Organisation(name.clone())],
                Over::Team(name) => vec![Reach::Team(name.clone())],
                Over::Oneself => vec![Reach::User(name.clone())],
                Over::Belonging => match (user.teams.as_slice(), &user.organisation) {
                    ([], Some(organisation)) => vec![Reach::Organisation(organisation.clone())],
                    ([], None) => vec![Reach::User(name.clone())],
                    (teams, _) => teams.iter().cloned().map(Reach::Team).collect(),
                },
            };
            holds.extend(reaches.into_iter().map(|reach| Held { role: *role, reach }));
        }
        holds
    }

    /// A user as an actor, if it is known.
    pub fn actor(&self, name: &str) -> Option<Actor> {
        let user = self.get(Sort::User, name)?;
        let name = user.bound.name.clone();
        Some(Actor {
            name: format!("user {name}").into(),
            holds: self.holds(&name, user).into(),
            user: Some(name),
            ..Actor::default()
        })
    }

    /// What binds a caller with a key: its own terms, its user's, its team's and its organisation's, all of them.
    pub fn bind(&self, principal: &mut Principal) {
        self.put_on(principal);
        let user = principal.user.as_deref().and_then(|user| self.get(Sort::User, user));
        if let Some(user) = user {
            principal.roles = user.role_names.clone();
        }
        principal.denied = match (&principal.user, user) {
            (None, _) => None,
            (Some(name), None) => {
                Some(deny("user_unknown", format!("user {name}, whose key this is, is not known any more")))
            }
            (Some(_), Some(user)) => self.denied(principal, user, false),
        };
        self.close(principal);
    }

    /// A team or an organisation that is disabled serves nobody.
    fn close(&self, principal: &mut Principal) {
        let off = |sort: Sort, name: &Option<Arc<str>>| {
            let name = name.as_deref()?;
            self.get(sort, name).filter(|identity| identity.disabled)?;
            let (kind, code) = match sort {
                Sort::Organisation => ("organisation", "organisation_disabled"),
                _ => ("team", "team_disabled"),
            };
            Some(deny(code, format!("{kind} {name} is disabled; ask the gateway's operator")))
        };
        let closed = off(Sort::Team, &principal.team).or_else(|| off(Sort::Organisation, &principal.organisation));
        principal.denied = closed.or(principal.denied.take());
    }

    fn put_on(&self, principal: &mut Principal) {
        principal.team = principal.team.take().map(|team| self.known(Sort::Team, &team));
        principal.user = principal.user.take().map(|user| self.known(Sort::User, &user));
        let user = principal.user.as_deref().and_then(|user| self.get(Sort::User, user));
        let team = principal.team.as_deref().and_then(|team| self.get(Sort::Team, team));
        let of_team = team.and_then(|team| team.organisation.as_deref());
        let organisation = of_team.or(user.filter(|_| team.is_none()).and_then(|user| user.organisation.as_deref()));
        // A token may say of which organisation its caller is; a team's own wins.
        let organisation = organisation.map(Arc::from).or(principal.organisation.take());
        principal.organisation = organisation.map(|name| self.known(Sort::Organisation, &name));
        let over = principal.organisation.as_deref().and_then(|name| self.get(Sort::Organisation, name));
        let own = principal.own.clone().into_iter().chain(user.map(|user| user.bound.clone()));
        let mut bounds: Vec<Arc<Bound>> = own.filter(|bound| bound.says_something()).collect();
        let alone = bounds.is_empty();
        bounds.extend([team, over].into_iter().flatten().map(|identity| identity.bound.clone()));
        let name = |of: Option<&Arc<Identity>>| of.map(|identity| identity.bound.name.clone());
        principal.set_lists(match alone {
            true => self.shared().entry([name(team), name(over)]).or_insert_with(|| Lists::of(&bounds)).clone(),
            false => Lists::of(&bounds),
        });
    }

    /// Why this caller may call nothing at all. `said`: its roles were, so that none is none.
    fn denied(&self, principal: &Principal, user: &Identity, said: bool) -> Option<Arc<Error>> {
        let name = &user.bound.name;
        if user.disabled {
            return Some(deny("user_disabled", format!("user {name} is disabled; ask the gateway's operator")));
        }
        let holds = if said && user.roles.is_empty() { Vec::new() } else { self.holds(name, user) };
        let actor = Actor {
            name: format!("user {name}").into(),
            user: Some(name.clone()),
            holds: holds.into(),
            ..Actor::default()
        };
        let mut place = self.place(principal.team.as_deref(), Some(name));
        if place.teams.is_empty() {
            place.teams = self.memberships(user);
        }
        permits(&actor, Operation::CallModels, &Target::Of(place)).err().map(Arc::new)
    }
}

fn deny(code: &'static str, message: String) -> Arc<Error> {
    Arc::new(Error::new(Kind::Forbidden, message).with_code(code))
}

/// Names of roles, as callers carry them.
pub(super) fn names_of(roles: &[Grant]) -> Arc<[String]> {
    super::list(roles.iter().map(|grant| grant.role.name().to_owned()))
}
