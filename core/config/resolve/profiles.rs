//! Profiles of AWS, as its own tools keep them in two files of a person's home: keys, or a role that is taken on with another
//! profile's. What needs a person (SSO, a code from a device) or starts a program is refused with the way out. Reads the files
//! through `sources`, and asks nobody.

use std::{collections::BTreeMap, path::PathBuf};

use super::{MOST_SECRET, Resolver};
use crate::config::{AwsLogin, AwsRole, Secret, file, source::dotted, sources};

type Profile = BTreeMap<String, String>;

/// What a profile comes to.
pub(super) enum Meant {
    Login(AwsLogin),
    /// There is no such profile, and none was asked for: the chain goes on.
    Nothing,
    /// It was told why not.
    Refused,
}

impl Resolver<'_, '_, '_> {
    pub(super) fn profile(&mut self, at: &[String], raw: &file::Aws) -> Meant {
        let named = raw.profile.clone().or_else(|| (self.around.env)("AWS_PROFILE")).filter(|name| !name.is_empty());
        let name = named.clone().unwrap_or_else(|| "default".to_owned());
        let profiles = match self.profiles() {
            Ok(profiles) => profiles,
            Err(why) => return self.refused(at, why),
        };
        if !profiles.contains_key(&name) {
            return match named {
                Some(name) => self.refused(at, format!("there is no profile {name:?} in AWS's files")),
                None => Meant::Nothing,
            };
        }
        match self.of_profile(&profiles, &name, raw, &mut Vec::new()) {
            Ok(Some(login)) => Meant::Login(login),
            // A profile that only says a region.
            Ok(None) if named.is_none() => Meant::Nothing,
            Ok(None) => self.refused(at, format!("the profile {name:?} has neither keys nor a role")),
            Err(why) => self.refused(at, why),
        }
    }

    fn refused(&mut self, at: &[String], why: String) -> Meant {
        let name = dotted(at);
        self.tell(at, format!("`{name}`: {why}"));
        Meant::Refused
    }

    /// Both files together; keys of the file for keys win, as they do for AWS's own tools.
    fn profiles(&mut self) -> Result<BTreeMap<String, Profile>, String> {
        let env = self.around.env;
        let home = env("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let place = |variable: &str, usual: &str| {
            let named = env(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
            named.or_else(|| Some(home.as_ref()?.join(".aws").join(usual))).map(|path| self.around.root.join(path))
        };
        let (config, credentials) =
            (place("AWS_CONFIG_FILE", "config"), place("AWS_SHARED_CREDENTIALS_FILE", "credentials"));
        let mut all = BTreeMap::new();
        for (path, prefixed) in [(config, true), (credentials, false)] {
            let Some(path) = path else { continue };
            let told = |why: String| format!("{} {why}", path.display());
            if !path.exists() {
                continue;
            }
            self.meets(&path);
            let Some(text) = sources::text(&path, MOST_SECRET * 16).map_err(told)? else { continue };
            read(&text, prefixed, &mut all);
        }
        Ok(all)
    }

    /// `seen`: the profiles that led here.
    fn of_profile(
        &self,
        profiles: &BTreeMap<String, Profile>,
        name: &str,
        raw: &file::Aws,
        seen: &mut Vec<String>,
    ) -> Result<Option<AwsLogin>, String> {
        let Some(profile) = profiles.get(name) else {
            return Err(format!("there is no profile {name:?} in AWS's files"));
        };
        let get = |key: &str| profile.get(key).filter(|value| !value.is_empty());
        let keys = || {
            let (id, secret) = (get("aws_access_key_id")?, get("aws_secret_access_key")?);
            let session = get("aws_session_token").map(Secret::new);
            Some(AwsLogin::Keys { id: Secret::new(id), secret: Secret::new(secret), session })
        };
        // A profile that leads to itself stands on its own keys.
        if seen.iter().any(|before| before == name) {
            let around = || format!("the profile {name:?} leads to itself and has no keys of its own");
            return keys().map(Some).ok_or_else(around);
        }
        seen.push(name.to_owned());
        if let Some(arn) = get("role_arn") {
            let session = get("role_session_name").cloned().or_else(|| raw.session_name.clone());
            if let Some(file) = get("web_identity_token_file") {
                let (arn, file, token_url) = (arn.clone(), PathBuf::from(file), raw.token_url.clone());
                return Ok(Some(AwsLogin::Role(AwsRole::WebIdentity { arn, session, file, token_url })));
            }
            if get("mfa_serial").is_some() {
                return Err(format!(
                    "the profile {name:?} wants a code from a person's device: name a role that needs none"
                ));
            }
            let base = match (get("source_profile"), get("credential_source").map(String::as_str)) {
                (Some(source), None) => self.of_profile(profiles, source, raw, seen)?,
                (None, Some("Environment")) => self.env_keys(),
                (None, Some("EcsContainer")) => self.container(None),
                (None, Some("Ec2InstanceMetadata")) => Some(AwsLogin::Role(AwsRole::Instance { token_url: None })),
                _ => return Err(format!("the profile {name:?} has a role and does not say, once, who takes it on")),
            };
            let base = base.ok_or_else(|| format!("the profile {name:?} has a role, and nobody to take it on"))?;
            let external_id = get("external_id").cloned().or_else(|| raw.external_id.clone());
            let token_url = raw.token_url.clone();
            let role = AwsRole::Assume { base: Box::new(base), arn: arn.clone(), session, external_id, token_url };
            return Ok(Some(AwsLogin::Role(role)));
        }
        if let Some(keys) = keys() {
            return Ok(Some(keys));
        }
        if get("sso_session").or(get("sso_start_url")).is_some() {
            return Err(format!(
                "the profile {name:?} is a person's login (SSO), which a gateway has none of: give it a role or keys of its own"
            ));
        }
        if get("credential_process").is_some() {
            return Err(format!(
                "the profile {name:?} starts a program for its keys (credential_process), and the gateway starts none: give it a \
                 role, or have the program write the keys where `access_key_id` finds them"
            ));
        }
        Ok(None)
    }

    /// Keys in the environment: the first place of the chain.
    pub(super) fn env_keys(&self) -> Option<AwsLogin> {
        let set = |name: &str| (self.around.env)(name).filter(|value| !value.is_empty()).map(Secret::new);
        let (id, secret) = (set("AWS_ACCESS_KEY_ID")?, set("AWS_SECRET_ACCESS_KEY")?);
        Some(AwsLogin::Keys { id, secret, session: set("AWS_SESSION_TOKEN") })
    }

    pub(super) fn container(&self, token_url: Option<&str>) -> Option<AwsLogin> {
        let env = self.around.env;
        let relative = env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").filter(|uri| uri.starts_with('/'));
        let full = relative.map(|uri| format!("http://169.254.170.2{uri}"));
        let url = full.or_else(|| env("AWS_CONTAINER_CREDENTIALS_FULL_URI"))?;
        let token = env("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(Secret::new);
        let token_file = env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from);
        let url = token_url.map_or(url, str::to_owned);
        Some(AwsLogin::Role(AwsRole::Container { url, token, token_file }))
    }
}

/// `[name]`, in one of the files `[profile name]`, and `key = value` lines. What is indented belongs to the key before it,
/// and none that is wanted here has such lines.
fn read(text: &str, prefixed: bool, into: &mut BTreeMap<String, Profile>) {
    let mut current = None;
    for line in text.lines() {
        let plain = line.trim_end();
        if plain.is_empty() || plain.starts_with(['#', ';', ' ', '\t']) {
            continue;
        }
        if let Some(section) =
            plain.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(name, _)| name.trim())
        {
            let named = match section.split_once(char::is_whitespace) {
                Some(("profile", name)) if prefixed => Some(name.trim().trim_matches('"')),
                Some(_) => None,
                None => (!prefixed || section == "default").then_some(section),
            };
            current = named.map(str::to_owned);
            if let Some(name) = &current {
                into.entry(name.clone()).or_default();
            }
            continue;
        }
        let Some(profile) = current.as_ref().and_then(|name| into.get_mut(name)) else { continue };
        let Some((key, value)) = plain.split_once('=') else { continue };
        // A comment begins behind a space.
        let value = value.split(" #").next().unwrap_or_default().split(" ;").next().unwrap_or_default().trim();
        profile.insert(key.trim().to_ascii_lowercase(), value.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_read_as_awss_own_tools_read_them() {
        let mut all = BTreeMap::new();
        let config = "[default]\nregion = eu-west-1\n[profile work]\nrole_arn=arn:x # a note\nsource_profile = keys\n\
            s3 =\n  max_concurrent_requests = 20\n[sso-session s]\nsso_start_url = u\n[plain]\nrole_arn = no\n";
        read(config, true, &mut all);
        read(
            "; a note\n[keys]\nAWS_ACCESS_KEY_ID = AK\naws_secret_access_key = a=b==\n[default]\nregion=x\n",
            false,
            &mut all,
        );
        let names: Vec<&String> = all.keys().collect();
        assert_eq!(names, ["default", "keys", "work"]);
        assert_eq!((all["work"]["role_arn"].as_str(), all["work"]["s3"].as_str()), ("arn:x", ""));
        assert_eq!(all["keys"]["aws_access_key_id"], "AK");
        assert_eq!(all["keys"]["aws_secret_access_key"], "a=b==");
        assert_eq!(all["default"]["region"], "x", "the file for keys wins");
    }
}
