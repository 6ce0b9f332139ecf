//! A provider's address and identity out of its row and the names that the configuration gives: region, project, location,
//! resource. They were checked to be plain names, so that none can lead elsewhere (promise 3).

use super::{
    Key,
    catalog::{Cloud, Row},
    sign::{AwsKeys, Identity, Scope, Source},
    url,
};
use crate::config::{AwsLogin, Login, Places};

/// `base_url` as configured, or the row's with its names filled in.
pub(super) fn address(name: &str, row: &Row, base_url: Option<String>, places: &Places) -> Result<String, String> {
    if let Some(url) = base_url {
        return Ok(url);
    }
    unused(name, row, places)?;
    let own = places.location.as_deref().and_then(|at| row.base_urls.iter().find(|(place, _)| *place == at));
    let template = own.map(|(_, url)| *url).or(row.base_url).ok_or_else(|| needs_base(name, row))?;
    fill(name, template, places)
}

/// A name that leads nowhere was meant for something.
fn unused(name: &str, row: &Row, places: &Places) -> Result<(), String> {
    let Places { region, project, location, resource, api_version } = places;
    let stands = |word: &str| {
        let paths = [row.paths.chat, row.paths.stream, row.paths.embeddings, row.paths.count_tokens];
        let urls = row.base_urls.iter().map(|(_, url)| *url);
        row.base_url.into_iter().chain(urls).chain(paths.into_iter().flatten()).any(|text| text.contains(word))
    };
    for (key, value, used) in [
        ("region", region, stands("{region}") || row.service.is_some()),
        ("project", project, stands("{project}")),
        ("location", location, stands("{location}")),
        ("resource", resource, stands("{resource}")),
        ("api_version", api_version, stands("{api_version}")),
    ] {
        if value.is_some() && !used {
            return Err(format!("provider {name}: `{key}` means nothing to it; remove it"));
        }
    }
    Ok(())
}

/// Each `{name}` replaced.
fn fill(name: &str, template: &str, places: &Places) -> Result<String, String> {
    let mut out = String::with_capacity(template.len() + 32);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (word, after) = after.split_once('}').unwrap_or((after, ""));
        let (value, example) = match word {
            "region" => (&places.region, "us-east-1"),
            "project" => (&places.project, "my-project"),
            "location" => (&places.location, "global"),
            "resource" => (&places.resource, "my-resource"),
            _ => return Err(format!("provider {name}: its row names `{word}`, which nobody can give")),
        };
        let value =
            value.as_deref().ok_or_else(|| format!("provider {name}: `{word}` is missing, such as \"{example}\""))?;
        out.push_str(before);
        out.push_str(&url::segment(value).map_err(|e| format!("provider {name}: `{word}`: {}", e.message))?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Service and region of its signatures.
pub(super) fn scope(row: &Row, places: &Places) -> Option<Scope> {
    Some(Scope { service: row.service?, region: places.region.clone()? })
}

/// Keys that were given as such, or where tokens come from.
pub(super) fn login(
    name: &str,
    row: &Row,
    login: Option<&Login>,
    places: &Places,
) -> Result<(Option<Key>, Option<Source>), String> {
    let Some(login) = login else { return Ok((None, None)) };
    let cloud = match login {
        Login::Aws(_) => Cloud::Aws,
        Login::Google(_) => Cloud::Google,
        Login::Entra(_) => Cloud::Entra,
    };
    if !row.logins.contains(&cloud) {
        let cloud = cloud.name();
        return Err(format!("provider {name}: `{cloud}` means nothing to it; give it a `key`, or another `row`"));
    }
    if cloud == Cloud::Aws && places.region.is_none() {
        return Err(format!("provider {name}: `region` is missing, such as \"us-east-1\""));
    }
    if let Login::Aws(AwsLogin::Keys { id, secret, session }) = login {
        let keys = AwsKeys::new(id, secret, session.as_ref());
        return Ok((Some(Key { identity: Some(Identity::Aws(keys)), print: login.print() }), None));
    }
    let source = Source::of(login, places.region.as_deref(), row.scope);
    source.map(|source| (None, Some(source))).map_err(|why| format!("provider {name}: {why}"))
}

fn needs_base(name: &str, row: &Row) -> String {
    let title = if row.title.is_empty() { "this server" } else { row.title };
    format!("provider {name}: `base_url` is missing, and {title} has no address that is the same for everybody")
}
