//! The routes of the control plane: one table, from which the dispatch and the OpenAPI document follow.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::{
    AdminState, access::May, audit, budgets, cache, explain, export, gate, identities, keys, openapi, quotas, reads,
    record, reply, reply::Reply, rerate, secrets, tokens, usage, versions,
};
use crate::{
    auth::permission::{Actor, Operation},
    error::{Error, Kind, Result},
};

/// A row.
pub(super) struct Route {
    pub method: Method,
    /// `{id}` stands for one segment, and so does `{other}`.
    pub path: &'static str,
    pub summary: &'static str,
    /// The permission that it takes.
    pub may: May,
    /// Query parameters: name, meaning.
    pub query: &'static [(&'static str, &'static str)],
    /// Schema names of `openapi::schemas`.
    pub body: Option<&'static str>,
    pub answer: &'static str,
    pub call: fn(Arc<AdminState>, Call) -> BoxFuture<'static, Result<Reply>>,
}

/// What a route gets of a request.
pub(super) struct Call {
    /// Who asks.
    pub actor: Actor,
    pub id: String,
    /// The second name in the path.
    pub other: String,
    pub query: Vec<(String, String)>,
    /// The header of that name.
    pub accept: String,
    pub body: Bytes,
}

const PAGING: &[(&str, &str)] = &[LIMIT, CURSOR];
const KEYS: &[(&str, &str)] = &[
    LIMIT,
    CURSOR,
    ("team", "only keys of this team"),
    ("user", "only keys of this user"),
    ("status", "only keys that are active, disabled, expired or revoked"),
    ("name", "only keys with this in their names"),
    ("tag", "only keys with this tag (name, or name=value)"),
];
const CUT: &[(&str, &str)] = &[("cut", "true: streams and sessions that run with it end at once")];
const OWNED: &[(&str, &str)] =
    &[("keys", "revoke: its keys and tokens are revoked with it, and what runs with them ends")];
const BODIES: &[(&str, &str)] =
    &[("bodies", "1: with what the request and its answer said, where records.bodies kept it; needs the admin token")];
const REQUESTS: &[(&str, &str)] = &[
    LIMIT,
    CURSOR,
    ("team", "only requests of this team"),
    ("key", "only requests of the key with this id"),
    ("model", "only requests that asked for this model"),
    ("status", "only answers with this status"),
    FROM,
    TO,
];
const USAGE: &[(&str, &str)] = &[
    (
        "group_by",
        "some of organisation, team, user, key, model, target, provider, tag, with commas; team when nothing is said",
    ),
    ("bucket", "a row for each minute, hour, day or month"),
    ("tz", "the zone of days and times, such as Europe/Berlin; UTC when absent"),
    FROM,
    TO,
    ("organisation", "only of this organisation"),
    ("team", "only of this team; empty: of none"),
    ("user", "only of this user"),
    ("key", "only of the key with this id"),
    ("model", "only of requests that asked for this model"),
    ("target", "only of this provider/model"),
    ("provider", "only of this provider"),
    ("tag", "only of requests with this tag, name=value"),
    FORMAT,
    LIMIT,
    CURSOR,
];
const EXPERIMENTS: &[(&str, &str)] = &[LIMIT, CURSOR, ("model", "only this alias"), FROM, TO];
const EXPORT: &[(&str, &str)] =
    &[("format", "ndjson, a request a line (when absent), or csv, an attempt a line"), FROM, TO];
const FORMAT: (&str, &str) = ("format", "json (pages), csv or ndjson (all rows); the header accept says it as well");
const AUDIT: &[(&str, &str)] = &[
    LIMIT,
    CURSOR,
    ("action", "only this action (keys.create), or all of a kind (keys)"),
    ("actor", "only this actor: a kind (owner, local, token, user, key, system), an id or a name"),
    ("object", "only what was done to this"),
    ("outcome", "intended, done, refused, failed or unknown (the gateway ended in between)"),
    ("node", "only this gateway's chain"),
    FROM,
    TO,
];
const AUDIT_EXPORT: &[(&str, &str)] = &[
    ("format", "ndjson (when absent), one row a line as it is stored, or csv"),
    ("action", "only this action (keys.create), or all of a kind (keys)"),
    ("node", "only this gateway's chain"),
    FROM,
    TO,
    ("cursor", "the x-next-cursor of the answer before"),
];
const CACHE: &[(&str, &str)] =
    &[("team", "only answers of this team"), ("key", "only answers of the key with this id, which has no team")];
const FROM: (&str, &str) = ("from", "not before this time, such as 2026-01-31 or 2026-01-31T08:00:00Z");
const TO: (&str, &str) = ("to", "before this time");
const LIMIT: (&str, &str) = ("limit", "rows a page, 1 to 500; 50 when absent");
const CURSOR: (&str, &str) = ("cursor", "the next_cursor of the page before");

#[rustfmt::skip]
pub(super) const TABLE: &[Route] = &[
    Route { method: Method::GET, path: "/health/live", summary: "The process runs", may: May::Anybody,
        query: &[], body: None, answer: "Health", call: reads::live },
    Route { method: Method::GET, path: "/health/ready", summary: "The gateway takes requests; 503 when it does not", may: May::Anybody,
        query: &[], body: None, answer: "Health", call: reads::ready },
    Route { method: Method::GET, path: "/metrics", summary: "Prometheus metrics", may: May::Gateway(Operation::ReadMetrics),
        query: &[], body: None, answer: "Text", call: reads::metrics },
    Route { method: Method::GET, path: "/api/openapi.json", summary: "This document", may: May::Common(Operation::Look),
        query: &[], body: None, answer: "Object", call: openapi::document },
    Route { method: Method::GET, path: "/api/v1/keys", summary: "Virtual keys, oldest first", may: May::Each(Operation::ReadKeys),
        query: KEYS, body: None, answer: "KeyPage", call: keys::list },
    Route { method: Method::POST, path: "/api/v1/keys", summary: "Makes a virtual key; the only time it is shown", may: May::Each(Operation::CreateKeys),
        query: &[], body: Some("NewKey"), answer: "KeyWithSecret", call: keys::create },
    Route { method: Method::GET, path: "/api/v1/keys/{id}", summary: "A virtual key", may: May::Each(Operation::ReadKeys),
        query: &[], body: None, answer: "Key", call: keys::one },
    Route { method: Method::PATCH, path: "/api/v1/keys/{id}", summary: "Changes what is named of a key, from the next request on", may: May::Each(Operation::ChangeKeys),
        query: &[], body: Some("KeyChange"), answer: "Key", call: keys::change },
    Route { method: Method::DELETE, path: "/api/v1/keys/{id}", summary: "Revokes a key: refused from the next request on", may: May::Each(Operation::RevokeKeys),
        query: CUT, body: None, answer: "Key", call: keys::revoke },
    Route { method: Method::POST, path: "/api/v1/keys/{id}/rotate", summary: "A new secret for a key", may: May::Each(Operation::ChangeKeys),
        query: &[], body: Some("Rotation"), answer: "KeyWithSecret", call: keys::rotate },
    Route { method: Method::GET, path: "/api/v1/organisations", summary: "Organisations of gateway.toml and of the store, by name", may: May::Each(Operation::ReadOrganisations),
        query: PAGING, body: None, answer: "OrganisationPage", call: identities::organisations },
    Route { method: Method::POST, path: "/api/v1/organisations", summary: "Makes an organisation in the store", may: May::Each(Operation::ChangeOrganisations),
        query: &[], body: Some("NewOrganisation"), answer: "Organisation", call: identities::create_organisations },
    Route { method: Method::GET, path: "/api/v1/organisations/{id}", summary: "An organisation, by name", may: May::Each(Operation::ReadOrganisations),
        query: &[], body: None, answer: "Organisation", call: identities::one_of_organisations },
    Route { method: Method::PATCH, path: "/api/v1/organisations/{id}", summary: "Changes what is named, from the next request on", may: May::Each(Operation::ChangeOrganisations),
        query: &[], body: Some("OrganisationChange"), answer: "Organisation", call: identities::change_organisations },
    Route { method: Method::DELETE, path: "/api/v1/organisations/{id}", summary: "Deletes an organisation; refused while others belong to it", may: May::Each(Operation::ChangeOrganisations),
        query: OWNED, body: None, answer: "Organisation", call: identities::delete_organisations },
    Route { method: Method::GET, path: "/api/v1/teams", summary: "Every team with its limits and what is left of its budget", may: May::Each(Operation::ReadTeams),
        query: PAGING, body: None, answer: "TeamPage", call: identities::teams },
    Route { method: Method::POST, path: "/api/v1/teams", summary: "Makes a team in the store", may: May::Each(Operation::ChangeTeams),
        query: &[], body: Some("NewTeam"), answer: "Team", call: identities::create_teams },
    Route { method: Method::GET, path: "/api/v1/teams/{id}", summary: "A team, by name", may: May::Each(Operation::ReadTeams),
        query: &[], body: None, answer: "Team", call: identities::one_of_teams },
    Route { method: Method::PATCH, path: "/api/v1/teams/{id}", summary: "Changes what is named, from the next request on", may: May::Each(Operation::ChangeTeams),
        query: &[], body: Some("TeamChange"), answer: "Team", call: identities::change_teams },
    Route { method: Method::DELETE, path: "/api/v1/teams/{id}", summary: "Deletes a team; refused while others belong to it", may: May::Each(Operation::ChangeTeams),
        query: OWNED, body: None, answer: "Team", call: identities::delete_teams },
    Route { method: Method::GET, path: "/api/v1/users", summary: "Users of gateway.toml and of the store, by name", may: May::Each(Operation::ReadUsers),
        query: PAGING, body: None, answer: "UserPage", call: identities::users },
    Route { method: Method::POST, path: "/api/v1/users", summary: "Makes a user in the store", may: May::Each(Operation::ChangeUsers),
        query: &[], body: Some("NewUser"), answer: "User", call: identities::create_users },
    Route { method: Method::GET, path: "/api/v1/users/{id}", summary: "A user, by name", may: May::Each(Operation::ReadUsers),
        query: &[], body: None, answer: "User", call: identities::one_of_users },
    Route { method: Method::PATCH, path: "/api/v1/users/{id}", summary: "Changes what is named, from the next request on", may: May::Each(Operation::ChangeUsers),
        query: &[], body: Some("UserChange"), answer: "User", call: identities::change_users },
    Route { method: Method::DELETE, path: "/api/v1/users/{id}", summary: "Deletes a user; refused while others belong to it", may: May::Each(Operation::ChangeUsers),
        query: OWNED, body: None, answer: "User", call: identities::delete_users },
    Route { method: Method::GET, path: "/api/v1/service-accounts", summary: "Service accounts of gateway.toml and of the store, by name", may: May::Each(Operation::ReadUsers),
        query: PAGING, body: None, answer: "UserPage", call: identities::service_accounts },
    Route { method: Method::POST, path: "/api/v1/service-accounts", summary: "Makes a service account in the store", may: May::Each(Operation::ChangeUsers),
        query: &[], body: Some("NewUser"), answer: "User", call: identities::create_service_accounts },
    Route { method: Method::GET, path: "/api/v1/service-accounts/{id}", summary: "A service account, by name", may: May::Each(Operation::ReadUsers),
        query: &[], body: None, answer: "User", call: identities::one_of_service_accounts },
    Route { method: Method::PATCH, path: "/api/v1/service-accounts/{id}", summary: "Changes what is named, from the next request on", may: May::Each(Operation::ChangeUsers),
        query: &[], body: Some("UserChange"), answer: "User", call: identities::change_service_accounts },
    Route { method: Method::DELETE, path: "/api/v1/service-accounts/{id}", summary: "Deletes a service account; refused while others belong to it", may: May::Each(Operation::ChangeUsers),
        query: OWNED, body: None, answer: "User", call: identities::delete_service_accounts },
    Route { method: Method::GET, path: "/api/v1/tokens", summary: "Tokens of this API, oldest first", may: May::Each(Operation::ReadTokens),
        query: PAGING, body: None, answer: "TokenPage", call: tokens::list },
    Route { method: Method::POST, path: "/api/v1/tokens", summary: "Makes a token of this API; the only time it is shown", may: May::Each(Operation::CreateTokens),
        query: &[], body: Some("NewToken"), answer: "TokenWithSecret", call: tokens::create },
    Route { method: Method::GET, path: "/api/v1/tokens/{id}", summary: "A token of this API", may: May::Each(Operation::ReadTokens),
        query: &[], body: None, answer: "Token", call: tokens::one },
    Route { method: Method::DELETE, path: "/api/v1/tokens/{id}", summary: "Revokes a token: refused from the next request on", may: May::Each(Operation::RevokeTokens),
        query: &[], body: None, answer: "Token", call: tokens::revoke },
    Route { method: Method::GET, path: "/api/v1/whoami", summary: "Who you are here, and what you may do", may: May::Common(Operation::Look),
        query: &[], body: None, answer: "Actor", call: tokens::whoami },
    Route { method: Method::GET, path: "/api/v1/permissions", summary: "Which role may do what", may: May::Common(Operation::Look),
        query: &[], body: None, answer: "Page", call: tokens::permissions },
    Route { method: Method::GET, path: "/api/v1/budgets", summary: "Every budget: spent, reserved, left, and when its window ends", may: May::Each(Operation::ReadTeams),
        query: PAGING, body: None, answer: "BudgetPage", call: budgets::list },
    Route { method: Method::GET, path: "/api/v1/quotas", summary: "What providers grant targets and keys: left, and when it returns", may: May::Gateway(Operation::ReadQuotas),
        query: PAGING, body: None, answer: "QuotaPage", call: quotas::list },
    Route { method: Method::GET, path: "/api/v1/budgets/raises", summary: "Raises of budgets that are in force, oldest first", may: May::Each(Operation::ReadTeams),
        query: PAGING, body: None, answer: "RaisePage", call: budgets::raises },
    Route { method: Method::POST, path: "/api/v1/budgets/raise", summary: "Raises the budgets of a scope until a time", may: May::Gateway(Operation::ChangeBudgets),
        query: &[], body: Some("NewRaise"), answer: "Raise", call: budgets::raise },
    Route { method: Method::DELETE, path: "/api/v1/budgets/raises/{id}", summary: "Ends a raise before its time", may: May::Gateway(Operation::ChangeBudgets),
        query: &[], body: None, answer: "Raise", call: budgets::end },
    Route { method: Method::DELETE, path: "/api/v1/cache", summary: "Removes kept answers, of one tenant or all; what flies then is not kept", may: May::Gateway(Operation::FlushCache),
        query: CACHE, body: None, answer: "Object", call: cache::flush },
    Route { method: Method::GET, path: "/api/v1/models", summary: "Every model name and its targets", may: May::Common(Operation::Look),
        query: PAGING, body: None, answer: "Page", call: reads::models },
    Route { method: Method::GET, path: "/api/v1/providers", summary: "Every provider, ready or not", may: May::Common(Operation::Look),
        query: PAGING, body: None, answer: "Page", call: reads::providers },
    Route { method: Method::GET, path: "/api/v1/config/status", summary: "The running configuration, and the one that was refused", may: May::Gateway(Operation::ReadConfig),
        query: &[], body: None, answer: "ConfigStatus", call: reads::config_status },
    Route { method: Method::POST, path: "/api/v1/config/reload", summary: "Takes the files up now; 422 with every mistake when they are refused", may: May::Gateway(Operation::ChangeConfig),
        query: &[], body: Some("Word"), answer: "Deployed", call: versions::reload },
    Route { method: Method::POST, path: "/api/v1/config/unpin", summary: "Releases a pinned version: the files' version takes over by the usual way", may: May::Gateway(Operation::ChangeConfig),
        query: &[], body: Some("Word"), answer: "Deployed", call: versions::unpin },
    Route { method: Method::GET, path: "/api/v1/versions", summary: "Versions of configuration, scripts and plugins, newest first", may: May::Gateway(Operation::ReadConfig),
        query: PAGING, body: None, answer: "VersionPage", call: versions::list },
    Route { method: Method::GET, path: "/api/v1/versions/{id}", summary: "A version with its files, by number or hash", may: May::Gateway(Operation::ReadConfig),
        query: &[], body: None, answer: "Version", call: versions::show },
    Route { method: Method::GET, path: "/api/v1/versions/{id}/diff/{other}", summary: "What differs between two versions; running and files are versions too", may: May::Gateway(Operation::ReadConfig),
        query: &[], body: None, answer: "VersionDiff", call: versions::diff },
    Route { method: Method::POST, path: "/api/v1/versions/{id}/rollback", summary: "Runs that version at once, and pins it until the files change", may: May::Gateway(Operation::ChangeConfig),
        query: &[], body: Some("Word"), answer: "Version", call: versions::rollback },
    Route { method: Method::GET, path: "/api/v1/rollout", summary: "The version that is being tried, with its figures", may: May::Gateway(Operation::ReadConfig),
        query: &[], body: None, answer: "Rollout", call: versions::rollout },
    Route { method: Method::POST, path: "/api/v1/rollout/promote", summary: "The version that is being tried serves all requests now", may: May::Gateway(Operation::ChangeConfig),
        query: &[], body: Some("Word"), answer: "Deployed", call: versions::promote },
    Route { method: Method::POST, path: "/api/v1/rollout/abort", summary: "Stops a rollout; its version is not tried again until the files change", may: May::Gateway(Operation::ChangeConfig),
        query: &[], body: Some("Word"), answer: "Deployed", call: versions::abort },
    Route { method: Method::GET, path: "/api/v1/secrets", summary: "Secrets in the store, by name; never their values", may: May::Gateway(Operation::ReadSecrets),
        query: PAGING, body: None, answer: "SecretPage", call: secrets::list },
    Route { method: Method::GET, path: "/api/v1/secrets/{id}", summary: "A secret's version and when it was changed; never its value", may: May::Gateway(Operation::ReadSecrets),
        query: &[], body: None, answer: "SecretInfo", call: secrets::show },
    Route { method: Method::PUT, path: "/api/v1/secrets/{id}", summary: "Puts a secret in, or another one in its place; the next request has it", may: May::Gateway(Operation::ChangeSecrets),
        query: &[], body: Some("NewSecret"), answer: "SecretInfo", call: secrets::set },
    Route { method: Method::DELETE, path: "/api/v1/secrets/{id}", summary: "Takes a secret away", may: May::Gateway(Operation::ChangeSecrets),
        query: &[], body: None, answer: "SecretInfo", call: secrets::delete },
    Route { method: Method::POST, path: "/api/v1/secrets/rotate-master", summary: "Another master key; finish: the former one opens nothing any more", may: May::Gateway(Operation::RotateMaster),
        query: &[], body: Some("MasterRotation"), answer: "Keyring", call: secrets::rotate },
    Route { method: Method::GET, path: "/api/v1/audit", summary: "What was done to the gateway and refused by it, newest first", may: May::Gateway(Operation::ReadAudit),
        query: AUDIT, body: None, answer: "AuditPage", call: audit::list },
    Route { method: Method::GET, path: "/api/v1/audit/export", summary: "Rows of the audit log as they are stored, oldest first", may: May::Gateway(Operation::ReadAudit),
        query: AUDIT_EXPORT, body: None, answer: "Text", call: audit::export },
    Route { method: Method::GET, path: "/api/v1/audit/verify", summary: "Follows the audit log's chains: whole, or the first row that is not", may: May::Gateway(Operation::ReadAudit),
        query: &[], body: None, answer: "AuditVerdict", call: audit::verify },
    Route { method: Method::POST, path: "/api/v1/state/export", summary: "Writes the store's rows to a file in the data directory", may: May::Gateway(Operation::ExportState),
        query: &[], body: None, answer: "StateExport", call: keys::export_state },
    Route { method: Method::POST, path: "/api/v1/explain", summary: "What would become of a request now, without sending it", may: May::Each(Operation::Explain),
        query: &[], body: Some("Explain"), answer: "Decision", call: explain::explain },
    Route { method: Method::GET, path: "/api/v1/requests", summary: "Requests, newest first; a page may be short and not the last", may: May::Each(Operation::ReadRequests),
        query: REQUESTS, body: None, answer: "RequestPage", call: reads::requests },
    Route { method: Method::GET, path: "/api/v1/requests/export", summary: "The ledger as a file: every request that was settled in a time, the last day when none is given", may: May::Each(Operation::ReadRequests),
        query: EXPORT, body: None, answer: "File", call: export::requests },
    Route { method: Method::GET, path: "/api/v1/requests/{id}", summary: "One request with its decision trace", may: May::Each(Operation::ReadRequests),
        query: BODIES, body: None, answer: "RequestRecord", call: reads::request },
    Route { method: Method::GET, path: "/api/v1/experiments", summary: "Arms of splits and mirrors side by side; by whole hours, of the last 31 days at most", may: May::Gateway(Operation::ReadExperiments),
        query: EXPERIMENTS, body: None, answer: "ExperimentPage", call: reads::experiments },
    Route { method: Method::GET, path: "/api/v1/usage", summary: "What was used and spent, by anything and by windows in any zone; the last 30 days when no time is given", may: May::Each(Operation::ReadUsage),
        query: USAGE, body: None, answer: "UsagePage", call: usage::usage },
    Route { method: Method::POST, path: "/api/v1/usage/rerate", summary: "Gives what was recorded in a time the prices of now: records and sums of this gateway, an hour at a time; in pieces", may: May::Gateway(Operation::RerateUsage),
        query: &[], body: Some("Rerate"), answer: "Rerated", call: rerate::rerate },
];

pub(super) async fn answer(state: Arc<AdminState>, peer: SocketAddr, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let mut known = None;
    match handle(state.clone(), peer, &head, body, &mut known).await {
        Ok(reply) => reply,
        Err(error) => {
            record::refused(&state, peer, known.or_else(|| gate::recognized(&state.keys, &head)), &error);
            if error.status() >= 500 {
                tracing::error!(%error, path = head.uri.path(), "an admin request failed");
            }
            reply::error(&error)
        }
    }
}

/// `known`: who it is, once that is known.
async fn handle(
    state: Arc<AdminState>,
    peer: SocketAddr,
    head: &Parts,
    body: Incoming,
    known: &mut Option<crate::audit::Actor>,
) -> Result<Reply> {
    // Who may not come in is not told what there is.
    let found = find(&head.method, head.uri.path());
    let actor = match &found {
        Ok((Route { may: May::Anybody, .. }, _)) => Actor::default(),
        _ => gate::admit(state.token.as_ref(), &state.keys, peer, head).await?,
    };
    let who = record::Who::of(&actor, peer, head);
    if !actor.name.is_empty() {
        *known = Some(who.actor.clone());
    }
    let (route, [id, other]) = found?;
    route.may.pass(&actor)?;
    let query = parse_query(route, head.uri.query())?;
    let body = if route.body.is_some() { read(body, most(route)).await? } else { Bytes::new() };
    let accept = head.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    record::run(route, state, who, Call { actor, id, other, query, accept, body }).await
}

fn find(method: &Method, path: &str) -> Result<(&'static Route, [String; 2])> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let mut others = Vec::new();
    for route in TABLE {
        let Some(names) = matches(route.path, path) else { continue };
        if route.method == *method {
            return Ok((route, names));
        }
        others.push(route.method.as_str());
    }
    if path == "/" {
        let message = "there is no console in this version; see /api/openapi.json for what is here";
        return Err(Error::new(Kind::NotFound, message));
    }
    if others.is_empty() {
        return Err(Error::new(
            Kind::NotFound,
            "the admin plane has no such path; see /api/openapi.json (requests to models go to the other port)",
        ));
    }
    Err(Error::new(Kind::MethodNotAllowed, format!("this path takes {}", others.join(" and "))))
}

/// The `{id}` and the `{other}` of a match; empty when the pattern has none.
fn matches(pattern: &str, path: &str) -> Option<[String; 2]> {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    let [mut id, mut other] = [String::new(), String::new()];
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some([id, other]),
            (Some("{id}"), Some(segment)) if !segment.is_empty() => id = unescaped(segment)?,
            (Some("{other}"), Some(segment)) if !segment.is_empty() => other = unescaped(segment)?,
            (Some(a), Some(b)) if a == b => {}
            _ => return None,
        }
    }
}

fn parse_query(route: &Route, query: Option<&str>) -> Result<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // Of a query alone: in a path a plus is a plus.
        let decode = |text: &str| unescaped(&text.replace('+', " "));
        let both = decode(name).zip(decode(value));
        let (name, value) = both.ok_or_else(|| Error::new(Kind::InvalidRequest, "the query is not UTF-8"))?;
        if !route.query.iter().any(|(known, _)| *known == name) {
            let known: Vec<_> = route.query.iter().map(|(known, _)| *known).collect();
            let message = match known.as_slice() {
                [] => "this path takes no query parameters".to_owned(),
                _ => format!("no such query parameter; there are {}", known.join(", ")),
            };
            return Err(Error::invalid(name, message));
        }
        if pairs.iter().any(|(seen, _)| *seen == name) {
            return Err(Error::invalid(name, "given twice"));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

fn unescaped(text: &str) -> Option<String> {
    percent_encoding::percent_decode_str(text).decode_utf8().ok().map(|t| t.into_owned())
}

/// Requests to models are larger than what operators write.
fn most(route: &Route) -> usize {
    if route.body == Some("Explain") { MAX_REQUEST } else { MAX_BODY }
}

async fn read(body: Incoming, most: usize) -> Result<Bytes> {
    let whole = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await;
    match whole {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => {
            Err(Error::new(Kind::TooLarge, format!("the body is larger than {} MiB", most >> 20)))
        }
        Ok(Err(e)) => Err(Error::new(Kind::InvalidRequest, "the body broke off").because(e)),
        Err(_elapsed) => Err(Error::new(Kind::RequestTimeout, "the body did not arrive within 10 s")),
    }
}

impl Call {
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Does the caller ask for this kind of answer?
    pub fn accepts(&self, kind: &str) -> bool {
        self.accept.split([',', ';']).any(|wanted| wanted.trim().eq_ignore_ascii_case(kind))
    }

    /// A time, or a day's begin, UTC.
    pub fn time(&self, name: &str) -> Result<Option<SystemTime>> {
        let Some(text) = self.query(name) else { return Ok(None) };
        let day = || format!("{text}T00:00:00Z").parse::<jiff::Timestamp>();
        let time = text.parse::<jiff::Timestamp>().or_else(|_| day());
        let wrong = || Error::invalid(name, "a time such as 2026-01-31T08:00:00Z, or a day such as 2026-01-31");
        time.map(|time| Some(time.into())).map_err(|_| wrong())
    }

    /// `from` and `to`, in this order where both are there.
    pub fn span(&self) -> Result<(Option<SystemTime>, Option<SystemTime>)> {
        let (from, to) = (self.time("from")?, self.time("to")?);
        if from.zip(to).is_some_and(|(from, to)| from > to) {
            return Err(Error::invalid("from", "it is later than `to`"));
        }
        Ok((from, to))
    }

    /// Rows a page.
    pub fn limit(&self) -> Result<usize> {
        let Some(text) = self.query("limit") else { return Ok(50) };
        text.parse()
            .ok()
            .filter(|n| (1..=500).contains(n))
            .ok_or_else(|| Error::invalid("limit", "a number from 1 to 500"))
    }
}

const MAX_BODY: usize = 1 << 20;
const MAX_REQUEST: usize = 33 << 20;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
