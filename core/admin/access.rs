//! What a request to the control plane may do and see: the permission of its route, the things that it touches, the rows that
//! it is shown. Asks `auth::permission`; decides nothing itself.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Map, Value};

use super::{AdminState, routes::Call};
use crate::{
    auth::{
        Keys,
        permission::{Actor, Operation, Place, Target, permits},
    },
    error::{Error, Kind, Result},
};

/// Which permission a route takes, and over what. A route cannot be without one, and an operation not without its row in
/// `auth::permission`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    /// Probes have no credentials.
    Anybody,
    /// Over the whole gateway.
    Gateway(Operation),
    /// Whoever holds it over anything.
    Common(Operation),
    /// The route asks over each thing that it touches, and shows what the actor may see.
    Each(Operation),
}

/// What an actor may see.
pub(super) struct Sight {
    whole: bool,
    /// Keys of its own.
    own: BTreeSet<Arc<str>>,
    actor: Actor,
    operation: Operation,
    keys: Arc<Keys>,
}

impl Sight {
    /// Everything that there is.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// A row of that team, made with that key.
    pub fn sees(&self, team: Option<&str>, key: Option<&str>) -> bool {
        if self.whole {
            return true;
        }
        let user = self.actor.user.as_deref().filter(|_| key.is_some_and(|key| self.own.contains(key)));
        let mut place = self.keys.table().directory().place(team, user);
        if team.is_none() && user.is_none() {
            place = Place::default();
        }
        permits(&self.actor, self.operation, &Target::Of(place)).is_ok()
    }
}

impl May {
    /// Asked of every request before anything is read.
    pub fn pass(self, actor: &Actor) -> Result<()> {
        match self {
            May::Anybody => Ok(()),
            May::Gateway(operation) => permits(actor, operation, &Target::Gateway),
            May::Common(operation) | May::Each(operation) => permits(actor, operation, &Target::Common),
        }
    }
}

impl Call {
    /// May the actor do this with what is that team's and that user's?
    pub fn permits(
        &self,
        state: &AdminState,
        operation: Operation,
        team: Option<&str>,
        user: Option<&str>,
    ) -> Result<()> {
        let place = state.keys.table().directory().place(team, user);
        let target = if place == Place::default() { Target::Gateway } else { Target::Of(place) };
        permits(&self.actor, operation, &target)
    }

    /// What the actor may see of rows that name a team and a key.
    pub fn sight(&self, state: &AdminState, operation: Operation) -> Sight {
        let whole = permits(&self.actor, operation, &Target::Gateway).is_ok();
        let own = self.actor.user.as_deref().filter(|_| !whole).map(|user| state.keys.table().keys_of_user(user));
        Sight { whole, own: own.unwrap_or_default(), actor: self.actor.clone(), operation, keys: state.keys.clone() }
    }

    /// The body as an object.
    pub fn object(&self) -> Result<Map<String, Value>> {
        if self.body.is_empty() {
            return Err(Error::new(Kind::InvalidRequest, "a JSON body is needed; see /api/openapi.json"));
        }
        let Fields(fields) = serde_json::from_slice(&self.body)
            .map_err(|e| Error::new(Kind::InvalidRequest, format!("the body is not right: {e}")))?;
        Ok(fields)
    }
}

/// Of a body; a field that is there twice would say two things.
struct Fields(Map<String, Value>);

impl<'de> serde::Deserialize<'de> for Fields {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if fields.contains_key(&name) {
                        return Err(serde::de::Error::custom(format!("duplicate field `{name}`")));
                    }
                    fields.insert(name, value);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}
