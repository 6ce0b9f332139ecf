//! What proves to an upstream who we are: a key in a header, a signature of AWS, a token of Google's or Microsoft's. Knows
//! how such a proof is made and how it is come by; makes no call itself: `token` asks, through the upstream client.
//!
//! A key in a header is made once, when the configuration is read: a request with it pays for no copy, hash or wait.

pub mod aws;
pub mod entra;
pub mod google;
pub mod grant;
mod header;
pub mod sigv4;

#[cfg(test)]
mod tests;

use std::time::SystemTime;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

pub(super) use self::header::{never, strip};
pub use self::{
    grant::{Answer, Ask, Granted, Outside, Reach},
    sigv4::{AwsKeys, Scope},
};
use super::AuthScheme;
use crate::{
    config::{self, Secret},
    error::{Error, Kind, Result},
};

/// What goes upstream, but for the proof.
pub struct Unsigned<'a> {
    pub method: Method,
    pub url: Uri,
    pub headers: HeaderMap,
    /// In pieces, as it will be sent.
    pub body: &'a [Bytes],
}

/// One proof, ready for use. `Debug` shows no secret: header values are marked sensitive, keys of AWS hide themselves.
#[derive(Debug, Clone)]
pub enum Identity {
    Header(HeaderName, HeaderValue),
    Aws(AwsKeys),
}

impl Identity {
    /// A key as its scheme sends it.
    pub fn key(scheme: AuthScheme, key: &Secret) -> Result<Option<Identity>, &'static str> {
        header::key(scheme, key)
    }

    pub fn bearer(token: &Secret) -> Result<Identity, &'static str> {
        header::bearer(token)
    }

    /// Puts the proof on a request. Nothing may change after.
    pub(super) fn apply(&self, request: &mut Unsigned<'_>, scope: Option<&Scope>) -> Result<()> {
        match self {
            Identity::Header(name, value) => {
                request.headers.insert(name.clone(), value.clone());
                Ok(())
            }
            Identity::Aws(keys) => {
                let scope = scope.ok_or_else(|| {
                    Error::new(Kind::Internal, "a signature was asked for without service and region")
                })?;
                sigv4::sign(keys, scope, request, SystemTime::now())
            }
        }
    }
}

/// Where tokens come from that are not in the configuration themselves.
#[derive(Debug)]
pub struct Source {
    way: Way,
    /// Names this source across reloads: what it holds, hashed.
    print: [u8; 16],
}

#[derive(Debug)]
enum Way {
    Aws(aws::Role),
    Google(google::Login),
    Entra(entra::Login),
}

impl Source {
    /// `region` and `scope` come from the provider's row and its configuration. The error is for the configuration's author.
    pub fn of(login: &config::Login, region: Option<&str>, scope: Option<&str>) -> Result<Source, String> {
        let way = match login {
            config::Login::Aws(config::AwsLogin::Role(role)) => Way::Aws(aws::Role::of(role, region)?),
            config::Login::Aws(config::AwsLogin::Keys { .. }) => return Err("these are keys, not a role".to_owned()),
            config::Login::Google(login) => Way::Google(google::Login::of(login)?),
            config::Login::Entra(login) => Way::Entra(entra::Login::of(login, scope)?),
        };
        let mut state = digest::Context::new(&digest::SHA256);
        for part in [&login.print(), region.unwrap_or_default().as_bytes(), b"/", scope.unwrap_or_default().as_bytes()]
        {
            state.update(part);
        }
        let mut print = [0; 16];
        print.copy_from_slice(&state.finish().as_ref()[..16]);
        Ok(Source { way, print })
    }

    pub fn print(&self) -> [u8; 16] {
        self.print
    }

    /// Comes by a token: a call or two. Errors say what to look at and hold no secret.
    pub async fn grant(&self, outside: &dyn Outside) -> Result<Granted> {
        match &self.way {
            Way::Aws(role) => role.grant(outside).await,
            Way::Google(login) => login.grant(outside).await,
            Way::Entra(login) => login.grant(outside).await,
        }
    }
}
