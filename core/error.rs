//! The one error type that crosses module borders: what went wrong, whose fault it is, whether another try helps.
//!
//! An `Error` never holds prompt text or a secret: its message is written for the caller. It becomes client bytes only
//! in `codec/*/error.rs` and `admin/`.

use std::{borrow::Cow, fmt, time::Duration};

use bytes::Bytes;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error on its way to the caller. Boxed: the happy path carries one word.
pub struct Error(Box<Inner>);

pub struct Inner {
    pub kind: Kind,
    /// For the caller: says what to do next.
    pub message: String,
    /// The field at fault, as a path in the caller's body (`messages[3].content`).
    pub param: Option<String>,
    /// Overrides the kind's own code.
    pub code: Option<Cow<'static, str>>,
    /// Overrides the kind's own status (a script's `reject(413, …)`, an upstream's 422).
    pub status: Option<u16>,
    pub retry_after: Option<Duration>,
    /// What an upstream said, when it was the upstream that said it.
    pub upstream: Option<UpstreamFault>,
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// An upstream's refusal. `body` is given back as it is only to a client of the same format.
#[derive(Debug, Clone, Default)]
pub struct UpstreamFault {
    pub status: u16,
    /// The family's word (`invalid_request_error`, `INVALID_ARGUMENT`).
    pub kind: Option<String>,
    pub code: Option<String>,
    pub request_id: Option<String>,
    pub body: Option<Bytes>,
}

/// What went wrong. Each kind has one status, one code and one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    InvalidRequest,
    /// A feature that no target can serve.
    Unsupported,
    /// A stage refused the content.
    ContentRefused,
    Unauthenticated,
    Forbidden,
    NotFound,
    ModelNotFound,
    MethodNotAllowed,
    RequestTimeout,
    TooLarge,
    UnsupportedMediaType,
    RateLimited,
    BudgetExceeded,
    /// The upstream answered with something that is not an answer, or died.
    Upstream,
    /// The upstream refused *our* key: never shown as the caller's 401.
    UpstreamAuth,
    /// The upstream refused the request itself (4xx): passed on with its own words.
    UpstreamRefused,
    UpstreamRateLimited,
    UpstreamOverloaded,
    UpstreamTimeout,
    /// The caller's own deadline, or the gateway is full.
    Overloaded,
    /// No healthy, configured or permitted target is left.
    NoTarget,
    Internal,
    /// The client left; nobody reads this one.
    ClientGone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Gateway,
    Upstream,
}

impl Kind {
    /// (HTTP status, our code, whose fault, may another attempt help)
    pub const fn facts(self) -> (u16, &'static str, Side, bool) {
        match self {
            Kind::InvalidRequest => (400, "invalid_request", Side::Client, false),
            Kind::Unsupported => (400, "unsupported_feature", Side::Client, false),
            Kind::ContentRefused => (400, "content_refused", Side::Client, false),
            Kind::Unauthenticated => (401, "invalid_api_key", Side::Client, false),
            Kind::Forbidden => (403, "forbidden", Side::Client, false),
            Kind::NotFound => (404, "not_found", Side::Client, false),
            Kind::ModelNotFound => (404, "model_not_found", Side::Client, false),
            Kind::MethodNotAllowed => (405, "method_not_allowed", Side::Client, false),
            Kind::RequestTimeout => (408, "request_timeout", Side::Client, false),
            Kind::TooLarge => (413, "request_too_large", Side::Client, false),
            Kind::UnsupportedMediaType => (415, "unsupported_media_type", Side::Client, false),
            Kind::RateLimited => (429, "rate_limited", Side::Client, false),
            Kind::BudgetExceeded => (429, "budget_exceeded", Side::Client, false),
            Kind::Upstream => (502, "upstream_failed", Side::Upstream, true),
            Kind::UpstreamAuth => (502, "upstream_auth_error", Side::Upstream, true),
            Kind::UpstreamRefused => (400, "upstream_refused", Side::Client, false),
            Kind::UpstreamRateLimited => (429, "upstream_rate_limited", Side::Upstream, true),
            Kind::UpstreamOverloaded => (503, "upstream_overloaded", Side::Upstream, true),
            Kind::UpstreamTimeout => (504, "upstream_timeout", Side::Upstream, true),
            Kind::Overloaded => (503, "overloaded", Side::Gateway, false),
            Kind::NoTarget => (503, "no_healthy_target", Side::Gateway, false),
            Kind::Internal => (500, "internal_error", Side::Gateway, false),
            Kind::ClientGone => (499, "client_gone", Side::Client, false),
        }
    }
}

impl Error {
    #[cold]
    #[inline(never)]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            param: None,
            code: None,
            status: None,
            retry_after: None,
            upstream: None,
            source: None,
        }))
    }

    #[cold]
    #[inline(never)]
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Error::new(Kind::InvalidRequest, message).at(param)
    }

    #[cold]
    #[inline(never)]
    /// 400 that names the feature no target can serve.
    pub fn unsupported(feature: &str, message: impl Into<String>) -> Self {
        Error::new(Kind::Unsupported, message).at(feature)
    }

    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.0.param = Some(param.into());
        self
    }

    pub fn with_code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.0.code = Some(code.into());
        self
    }

    pub fn with_status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    pub fn from_upstream(mut self, fault: UpstreamFault) -> Self {
        self.0.upstream = Some(fault);
        self
    }

    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    #[cold]
    #[inline(never)]
    /// The same error without its cause, which cannot be copied.
    pub fn copy(&self) -> Error {
        Error(Box::new(Inner {
            kind: self.kind,
            message: self.message.clone(),
            param: self.param.clone(),
            code: self.code.clone(),
            status: self.status,
            retry_after: self.retry_after,
            upstream: self.upstream.clone(),
            source: None,
        }))
    }

    pub fn status(&self) -> u16 {
        self.0.status.unwrap_or(self.0.kind.facts().0)
    }

    pub fn code(&self) -> &str {
        self.0.code.as_deref().unwrap_or(self.0.kind.facts().1)
    }

    pub fn side(&self) -> Side {
        self.0.kind.facts().2
    }

    /// May another target succeed where this one failed?
    pub fn retryable(&self) -> bool {
        self.0.kind.facts().3
    }
}

impl std::ops::Deref for Error {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl std::ops::DerefMut for Error {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.kind)
            .field("status", &self.status())
            .field("message", &self.message)
            .field("param", &self.param)
            .field("source", &self.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| &**s as _)
    }
}
