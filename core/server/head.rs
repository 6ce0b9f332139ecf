//! How large a request's head may be. hyper has one number for that and for what it reads at once, and bodies want to be read in
//! large pieces; so over HTTP/1.1 it is looked at here.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};

use super::Body;

/// Bytes.
pub const MOST: usize = 64 << 10;

/// Bytes of the request's line and its fields, as HTTP/1.1 writes them.
pub fn size<B>(request: &Request<B>) -> usize {
    let line = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    request.headers().iter().fold(line, |sum, (name, value)| sum + name.as_str().len() + value.len() + ": \r\n".len())
}

/// As hyper answers where the head alone is more than it reads at once.
pub fn too_large() -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::new()));
    *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
