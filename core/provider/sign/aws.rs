//! Keys of an AWS role: another one that an identity takes on, or by the ways of the default credential chain that ask
//! somebody: with the token of a cluster's service account, the container's service (ECS, EKS Pod Identity), the instance's
//! (IMDSv2). Which of them it is was decided when the configuration was read.

use std::path::PathBuf;

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::{
    AwsKeys, Identity, Scope, Unsigned,
    grant::{self, Ask, Granted, Outside, Reach, failed},
    sigv4,
};
use crate::{
    config::{self, Secret},
    error::Result,
};

#[derive(Debug)]
pub enum Role {
    WebIdentity {
        url: String,
        arn: String,
        session: String,
        file: PathBuf,
    },
    /// With an identity that there is already.
    Assume {
        base: Base,
        url: String,
        region: String,
        fields: Vec<(&'static str, String)>,
    },
    Container {
        url: String,
        token: Option<Secret>,
        token_file: Option<PathBuf>,
    },
    Instance {
        base: String,
    },
}

/// Who takes on a role.
#[derive(Debug)]
pub enum Base {
    Keys(AwsKeys),
    Role(Box<Role>),
}

impl Role {
    pub fn of(role: &config::AwsRole, region: Option<&str>) -> Result<Role, String> {
        Ok(match role.clone() {
            config::AwsRole::WebIdentity { arn, session, file, token_url } => {
                let region = region.ok_or("`region` is missing")?;
                let url = token_url.unwrap_or_else(|| format!("https://sts.{region}.amazonaws.com/"));
                Role::WebIdentity { url, arn, session: session.unwrap_or_else(|| SESSION.to_owned()), file }
            }
            config::AwsRole::Assume { base, arn, session, external_id, token_url } => {
                let region = region.ok_or("`region` is missing")?.to_owned();
                let base = match *base {
                    config::AwsLogin::Keys { id, secret, session } => {
                        Base::Keys(AwsKeys::new(&id, &secret, session.as_ref()))
                    }
                    config::AwsLogin::Role(role) => Base::Role(Box::new(Role::of(&role, Some(&region))?)),
                };
                let mut fields = vec![
                    ("Action", "AssumeRole".to_owned()),
                    ("Version", "2011-06-15".to_owned()),
                    ("RoleArn", arn),
                    ("RoleSessionName", session.unwrap_or_else(|| SESSION.to_owned())),
                ];
                fields.extend(external_id.map(|id| ("ExternalId", id)));
                let url = token_url.unwrap_or_else(|| format!("https://sts.{region}.amazonaws.com/"));
                Role::Assume { base, url, region, fields }
            }
            config::AwsRole::Container { url, token, token_file } => Role::Container { url, token, token_file },
            config::AwsRole::Instance { token_url } => {
                let base = token_url.as_deref().unwrap_or("http://169.254.169.254").trim_end_matches('/').to_owned();
                Role::Instance { base }
            }
        })
    }

    pub async fn grant(&self, outside: &dyn Outside) -> Result<Granted> {
        match self {
            Role::WebIdentity { url, arn, session, file } => {
                let token = outside.read(file).map_err(|why| failed(&format!("the web identity token file {why}")))?;
                let fields = [
                    ("Action", "AssumeRoleWithWebIdentity"),
                    ("Version", "2011-06-15"),
                    ("RoleArn", arn),
                    ("RoleSessionName", session),
                    ("WebIdentityToken", token.trim()),
                ];
                let body = grant::ask(outside, STS, Ask::form(url, &fields)?).await?;
                from_xml(&body, outside)
            }
            Role::Assume { base, url, region, fields } => {
                let first = match base {
                    Base::Keys(keys) => Identity::Aws(keys.clone()),
                    Base::Role(role) => Box::pin(role.grant(outside)).await?.identity,
                };
                let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let mut ask = Ask::form(url, &fields)?;
                if let Identity::Aws(keys) = &first {
                    let scope = Scope { service: "sts", region: region.clone() };
                    let body = [ask.body.clone()];
                    let (method, url) = (ask.method.clone(), ask.url.clone());
                    let mut request = Unsigned { method, url, headers: std::mem::take(&mut ask.headers), body: &body };
                    sigv4::sign(keys, &scope, &mut request, outside.now())?;
                    ask.headers = request.headers;
                }
                from_xml(&grant::ask(outside, STS, ask).await?, outside)
            }
            Role::Container { url, token, token_file } => {
                let mut ask = Ask::get(url, Reach::Machine)?;
                let read = match token_file {
                    Some(file) => {
                        let read = outside.read(file);
                        Some(Secret::new(read.map_err(|why| failed(&format!("the container's token file {why}")))?))
                    }
                    None => token.clone(),
                };
                if let Some(token) = read {
                    ask = ask.header("authorization", token.expose().trim())?;
                }
                from_json(&grant::ask(outside, CONTAINER, ask).await?, CONTAINER, outside)
            }
            Role::Instance { base } => {
                let mut ask = Ask::get(&format!("{base}/latest/api/token"), Reach::Machine)?
                    .header("x-aws-ec2-metadata-token-ttl-seconds", "21600")?;
                ask.method = Method::PUT;
                let session = words(&grant::ask(outside, INSTANCE, ask).await?)?;
                let list = format!("{base}/latest/meta-data/iam/security-credentials/");
                let get = |url: &str| Ask::get(url, Reach::Machine)?.header("x-aws-ec2-metadata-token", &session);
                let names = words(&grant::ask(outside, INSTANCE, get(&list)?).await?)?;
                let name = names.lines().next().map(str::trim).unwrap_or_default();
                let plain = |c: char| c.is_ascii_alphanumeric() || "+=,.@_-".contains(c);
                if name.is_empty() || !name.chars().all(plain) {
                    return Err(failed("this machine has no role of AWS"));
                }
                from_json(&grant::ask(outside, INSTANCE, get(&format!("{list}{name}"))?).await?, INSTANCE, outside)
            }
        }
    }
}

fn words(body: &Bytes) -> Result<String> {
    String::from_utf8(body.to_vec()).map_err(|_| failed("the machine's metadata service answered with something odd"))
}

/// As container and instance answer.
fn from_json(body: &[u8], who: &str, outside: &dyn Outside) -> Result<Granted> {
    let answer: Value = grant::json(who, body)?;
    let field = |key: &str| grant::text(&answer, key).map(Secret::new);
    keys(
        who,
        field("AccessKeyId"),
        field("SecretAccessKey"),
        field("Token"),
        grant::text(&answer, "Expiration"),
        outside,
    )
}

/// As STS answers: the elements are looked for, none of them can hold markup.
fn from_xml(body: &[u8], outside: &dyn Outside) -> Result<Granted> {
    let text = std::str::from_utf8(body).map_err(|_| failed(&format!("{STS} answered with something odd")))?;
    let element = |name: &str| {
        let rest = text.split_once(&format!("<{name}>"))?.1;
        let value = rest.split_once(&format!("</{name}>"))?.0.trim();
        (!value.is_empty() && !value.contains(['<', '&'])).then_some(value)
    };
    let field = |name: &str| element(name).map(Secret::new);
    keys(STS, field("AccessKeyId"), field("SecretAccessKey"), field("SessionToken"), element("Expiration"), outside)
}

fn keys(
    who: &str,
    id: Option<Secret>,
    secret: Option<Secret>,
    session: Option<Secret>,
    expires: Option<&str>,
    outside: &dyn Outside,
) -> Result<Granted> {
    let (Some(id), Some(secret)) = (id, secret) else {
        return Err(failed(&format!("{who} answered without keys")));
    };
    let lifetime = grant::until(expires, outside.now());
    Ok(Granted { identity: Identity::Aws(AwsKeys::new(&id, &secret, session.as_ref())), lifetime })
}

/// What a session is called in AWS's logs.
const SESSION: &str = "portcullis";
const STS: &str = "AWS STS";
const CONTAINER: &str = "the container's credential service of AWS";
const INSTANCE: &str = "the machine's metadata service of AWS";
