//! AWS Signature Version 4 over a whole request: method, encoded path, query, host, the headers that say what the body is,
//! and the body's hash. The canonical forms are the library's; what is signed, and when, is decided here.

use std::{fmt, time::SystemTime};

use aws_credential_types::Credentials;
use aws_lc_rs::digest;
use aws_sigv4::{
    http_request::{self, SignableBody, SignableRequest, SigningSettings},
    sign::v4,
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header::CONTENT_TYPE};

use super::Unsigned;
use crate::{
    config::Secret,
    error::{Error, Kind, Result},
};

/// Keys of an account or of a role. Wiped when dropped.
#[derive(Clone)]
pub struct AwsKeys(Credentials);

impl AwsKeys {
    pub fn new(id: &Secret, secret: &Secret, session: Option<&Secret>) -> AwsKeys {
        let session = session.map(|token| token.expose().to_owned());
        AwsKeys(Credentials::from_keys(id.expose(), secret.expose(), session))
    }
}

impl fmt::Debug for AwsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwsKeys(…)")
    }
}

/// For which service and region a signature counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    pub service: &'static str,
    pub region: String,
}

/// Adds date, session token and signature. `now` must be the wall clock: AWS takes what is five minutes off.
pub fn sign(keys: &AwsKeys, scope: &Scope, request: &mut Unsigned<'_>, now: SystemTime) -> Result<()> {
    let failed = |e: &dyn std::error::Error| {
        Error::new(Kind::Internal, "the request could not be signed for AWS").because(e.to_string())
    };
    let identity = keys.0.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(&scope.region)
        .name(scope.service)
        .time(now)
        // Every service but S3 decodes the path before it checks: it is encoded once more in what is signed.
        .settings(SigningSettings::default())
        .build()
        .map_err(|e| failed(&e))?
        .into();
    let url = request.url.to_string();
    // Others may change on the way (a proxy's, the transport's): they are not part of what is proven.
    let signed =
        request.headers.iter().filter(|(name, _)| **name == CONTENT_TYPE || name.as_str().starts_with("x-amz"));
    let signed: Vec<(&str, &str)> =
        signed.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect();
    let body = SignableBody::Precomputed(hash(request.body));
    let signable = SignableRequest::new(request.method.as_str(), url.as_str(), signed.into_iter(), body)
        .map_err(|e| failed(&e))?;
    let (instructions, _) = http_request::sign(signable, &params).map_err(|e| failed(&e))?.into_parts();
    for header in instructions.into_parts().0 {
        let mut value = HeaderValue::from_str(header.value()).map_err(|e| failed(&e))?;
        value.set_sensitive(true);
        request.headers.insert(HeaderName::from_static(header.name()), value);
    }
    Ok(())
}

/// SHA-256 of the pieces as if they were one, in hexadecimal.
fn hash(body: &[Bytes]) -> String {
    let mut state = digest::Context::new(&digest::SHA256);
    body.iter().for_each(|piece| state.update(piece));
    state.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
