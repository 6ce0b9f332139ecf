//! The process environment: the only place that reads it. Everybody else is handed values.

/// A variable of this process; empty counts as not set.
#[allow(clippy::disallowed_methods, reason = "this is the one reader that the ban sends everybody to")]
pub fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The usual proxy variables; lower case wins, as in curl.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    pub http: Option<String>,
    pub https: Option<String>,
    pub all: Option<String>,
    pub no: Option<String>,
}

/// Proxies as an environment states them. `HTTP_PROXY` in capitals is not read: in a CGI-like setting a caller's
/// `Proxy:` header could set it.
pub fn proxies(env: &dyn Fn(&str) -> Option<String>) -> Proxies {
    let either = |lower: &str| env(lower).or_else(|| env(&lower.to_uppercase()));
    Proxies { http: env("http_proxy"), https: either("https_proxy"), all: either("all_proxy"), no: either("no_proxy") }
}

/// `PORTCULLIS_LOG`: a level or a filter for the log (`info`, `portcullis=debug`).
pub fn log_filter(env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    env("PORTCULLIS_LOG")
}
