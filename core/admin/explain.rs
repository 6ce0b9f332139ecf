//! `POST /api/v1/explain`: reads for whom and what is asked, and hands it to the gateway. The body is a client's own request,
//! or `{request, format | path, model, key | team, user, headers, seed}` around one.

use std::{str::FromStr, sync::Arc, time::SystemTime};

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Map, Value};

use super::{
    AdminState,
    reply::{self, Reply},
    routes::Call,
};
use crate::{
    auth::{Principal, permission::Operation},
    endpoint,
    error::{Error, Kind, Result},
    explain::Asked,
    model::Format,
};

pub(super) fn explain(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let asked = asked(&state, &call)?;
        Ok(reply::ok(&state.facts.explain(asked).await?))
    })
}

fn asked(state: &AdminState, call: &Call) -> Result<Asked> {
    let body = &call.body;
    let whole: Value = serde_json::from_slice(body)
        .map_err(|e| Error::new(Kind::InvalidRequest, format!("the body is not JSON: {e}")))?;
    let Value::Object(mut around) = whole else {
        return Err(Error::new(Kind::InvalidRequest, "the body is a request, or an object with one in `request`"));
    };
    let request = match around.remove("request") {
        Some(Value::Object(request)) => request,
        Some(_) => return Err(Error::invalid("request", "`request` is a request's body: an object")),
        // A client's own body, byte for byte.
        None => return Ok(Asked::chat(shape(&around), body.clone())),
    };
    if let Some(other) = around.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(Error::invalid(other, format!("beside `request` there are {}", KEYS.join(", "))));
    }
    let fields = Fields(&around);
    let mut asked = Asked::chat(shape(&request), Value::Object(request).to_string().into());
    asked.headers = fields.headers()?;
    if let Some(name) = fields.text("format")? {
        asked.format = Format::parse(name).ok_or_else(|| {
            let known = Format::ALL.map(Format::name).join(", ");
            Error::invalid("format", format!("there is no format {name:?}; there are {known}"))
        })?;
    }
    if let Some(path) = fields.text("path")? {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let found =
            endpoint::find(&Method::POST, path, query, &asked.headers).map_err(|(_, error)| error.at("path"))?;
        (asked.operation, asked.format, asked.stream) = (found.operation, found.format, found.stream);
        (asked.model, asked.legacy, asked.single) = (found.model, found.legacy, found.single);
    }
    if let Some(model) = fields.text("model")? {
        asked.model = Some(model.to_owned());
    }
    match fields.0.get("stream") {
        None | Some(Value::Null) => {}
        Some(Value::Bool(stream)) => asked.stream = Some(*stream),
        Some(_) => return Err(Error::invalid("stream", "`stream` is true or false")),
    }
    asked.seed = match fields.0.get("seed") {
        None | Some(Value::Null) => None,
        Some(seed) => Some(seed.as_u64().ok_or_else(|| Error::invalid("seed", "`seed` is a whole number"))?),
    };
    asked.principal = Arc::new(caller(state, call, &fields)?);
    Ok(asked)
}

/// On whose behalf, if the actor may ask so. Nobody in particular is anybody's to ask for.
fn caller(state: &AdminState, call: &Call, fields: &Fields<'_>) -> Result<Principal> {
    let table = state.keys.table();
    let mut principal = match (fields.text("key")?, fields.text("team")?) {
        (Some(_), Some(_)) => return Err(Error::invalid("team", "a key has its own team: give one of both")),
        (Some(id), None) => Principal::clone(&*table.owner(id, SystemTime::now())?),
        (None, team) => table.member(team).ok_or_else(|| {
            let team = team.unwrap_or_default();
            Error::invalid("team", format!("no team is called {team:?}; GET /api/v1/teams lists them"))
        })?,
    };
    if !principal.key_id.is_empty() || principal.team.is_some() {
        call.permits(state, Operation::Explain, principal.team.as_deref(), principal.user.as_deref())?;
    }
    if let Some(user) = fields.text("user")? {
        principal = match principal.key_id.is_empty() {
            true => table.as_user(principal, user),
            false => Principal { user: Some(user.into()), ..principal },
        };
    }
    Ok(principal)
}

/// What the body looks like, where nobody says.
fn shape(request: &Map<String, Value>) -> Format {
    let has = |field: &str| request.contains_key(field);
    match () {
        () if has("contents") => Format::Gemini,
        () if has("input") && !has("messages") => Format::OpenaiResponses,
        () => Format::OpenaiChat,
    }
}

struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Error::invalid(key, format!("`{key}` is a text"))),
        }
    }

    fn headers(&self) -> Result<HeaderMap> {
        let wrong = || Error::invalid("headers", "`headers` are names with texts");
        let mut headers = HeaderMap::new();
        match self.0.get("headers") {
            None | Some(Value::Null) => {}
            Some(Value::Object(pairs)) => {
                for (name, value) in pairs {
                    let value = value.as_str().and_then(|value| HeaderValue::from_str(value).ok());
                    headers.insert(HeaderName::from_str(name).map_err(|_| wrong())?, value.ok_or_else(wrong)?);
                }
            }
            Some(_) => return Err(wrong()),
        }
        Ok(headers)
    }
}

const KEYS: [&str; 9] = ["format", "path", "model", "stream", "key", "team", "user", "headers", "seed"];
