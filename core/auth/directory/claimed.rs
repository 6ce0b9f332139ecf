//! Callers with a signed token: what its claims say of their place and their roles, beside what is known of its user here.

use std::sync::Arc;

use super::{Directory, Identity, Principal, Sort, deny};
use crate::{
    auth::permission::Actor,
    config::{Grant, Terms},
    error::{Error, Kind, Result},
};

/// What a signed token says of its caller's place.
pub(in crate::auth) struct Claimed {
    /// The first that is known counts.
    pub teams: Vec<String>,
    /// Where it names none.
    pub usual_team: Option<Arc<str>>,
    /// Of who is in none.
    pub organisation: Option<String>,
    /// `None`: tokens of this issuer say nothing of roles.
    pub roles: Option<Vec<String>>,
    /// What those permit.
    pub grants: Vec<Grant>,
}

impl Directory {
    /// What binds a caller with a signed token.
    pub(in crate::auth) fn bind_claimed(&self, principal: &mut Principal, claimed: &Claimed) {
        let user = principal.user.as_deref().and_then(|user| self.get(Sort::User, user)).cloned();
        let known = |team: &String| self.get(Sort::Team, team).is_some();
        let team = claimed.teams.iter().find(|team| known(team)).or(claimed.teams.first());
        let its = |user: &Arc<Identity>| user.teams.first().filter(|_| user.teams.len() == 1).cloned();
        let team = team.map(|team| Arc::from(team.as_str())).or_else(|| user.as_ref().and_then(its));
        principal.team = team.or(claimed.usual_team.clone());
        self.put_on(principal);
        let like = user.as_deref().cloned();
        let mut like = like.unwrap_or_else(|| {
            let name = principal.user.clone().unwrap_or_default();
            let teams = principal.team.iter().cloned().collect();
            Identity { teams, ..Identity::of(Sort::User, &name, Terms::default()) }
        });
        if let Some(roles) = &claimed.roles {
            principal.roles = roles.clone().into();
            like.roles = claimed.grants.clone();
        } else {
            principal.roles = like.role_names.clone();
        }
        let named = principal.user.clone().unwrap_or_default();
        principal.denied = match &principal.team {
            Some(team) if self.get(Sort::Team, team).is_none() => {
                Some(deny("team_unknown", format!("the team {team}, which this token names, is not known here")))
            }
            Some(team) if !like.teams.is_empty() && !like.teams.contains(team) => {
                Some(deny("team_unknown", format!("user {named} is not in the team {team}, which this token names")))
            }
            None if like.teams.len() > 1 => {
                Some(deny("team_unknown", format!("user {named} is in several teams: the token must name one")))
            }
            _ => self.denied(principal, &like, claimed.roles.is_some()),
        };
        self.close(principal);
    }

    /// Who acts at the control plane with a signed token: a user that is known here, as far as its token goes, or somebody who
    /// holds what the token's claims say and no more.
    pub(in crate::auth) fn actor_claimed(&self, user: &Arc<str>, claimed: &Claimed) -> Result<Actor> {
        let known = self.get(Sort::User, user).cloned();
        let refuse = |code, message: String| Err(Error::new(Kind::Forbidden, message).with_code(code));
        if known.as_ref().is_some_and(|user| user.disabled) {
            return refuse("user_disabled", format!("user {user} is disabled; ask the gateway's operator"));
        }
        let of_user =
            |team: &Arc<str>| known.as_ref().is_none_or(|user| user.teams.is_empty() || user.teams.contains(team));
        let mut like = known.as_deref().cloned().unwrap_or_else(|| Identity::of(Sort::User, user, Terms::default()));
        if !claimed.teams.is_empty() {
            let named = claimed.teams.iter().filter_map(|team| Some(self.get(Sort::Team, team)?.bound.name.clone()));
            like.teams = named.filter(of_user).collect();
            if like.teams.is_empty() {
                let message = format!("user {user} is in none of the teams that this token names");
                return refuse("team_unknown", message);
            }
        } else if like.teams.is_empty() && like.organisation.is_none() {
            like.teams.extend(claimed.usual_team.iter().filter(|team| self.get(Sort::Team, team).is_some()).cloned());
        }
        if let Some(claim) = claimed.organisation.as_ref().filter(|_| like.teams.is_empty()) {
            let other = like.organisation.as_deref().is_some_and(|own| own != claim);
            if other || self.get(Sort::Organisation, claim).is_none() {
                let message = format!("user {user} is not in the organisation {claim}, which this token names");
                return refuse("organisation_unknown", message);
            }
            like.organisation = Some(self.known(Sort::Organisation, claim));
        }
        like.roles = match &claimed.roles {
            Some(_) => claimed.grants.clone(),
            None => like.roles,
        };
        // Whose token says nothing of roles has what its user was given here, and nobody's user has nothing.
        let none = if claimed.roles.is_some() { like.roles.is_empty() } else { known.is_none() };
        let name = like.bound.name.clone();
        let holds = if none { Vec::new() } else { self.holds(&name, &like) };
        Ok(Actor { name: format!("user {name}").into(), user: Some(name), holds: holds.into(), ..Actor::default() })
    }
}
