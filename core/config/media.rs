//! `[media]`, resolved: media that requests name by URL. Plain data.

use std::time::Duration;

/// `[media]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Media {
    pub fetch: bool,
    /// Hosts that may live on private addresses, in lower case.
    pub allow: Vec<String>,
    /// Bytes of one.
    pub max_size: u64,
    pub timeout: Duration,
}

impl Default for Media {
    fn default() -> Self {
        Media { fetch: true, allow: Vec::new(), max_size: 20 << 20, timeout: Duration::from_secs(10) }
    }
}
