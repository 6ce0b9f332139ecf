//! What lies where: a request that names what its caller has at one provider means something to that one alone, and an answer that
//! the gateway keeps is kept at none.

use std::sync::Arc;

use bytes::Bytes;

use super::{super::envelope::Envelope, Document};
use crate::error::Result;

impl Document {
    /// The same request with the provider's own names in its bytes. Before any stage has seen it.
    pub fn brought_home(&mut self, bytes: Bytes, home: &str) -> Result<()> {
        self.envelope = Arc::new(Envelope::scan(&bytes)?);
        self.bytes = bytes;
        self.decoded = None;
        self.home = Some(home.into());
        Ok(())
    }

    /// The one provider that it may go to, if there is only one.
    pub fn home(&self) -> Option<&str> {
        self.home.as_deref()
    }

    /// Upstreams are told so.
    pub fn is_kept_here(&self) -> bool {
        self.kept_here
    }
}
