//! Changes that others make to a shared store, for modules that hold rows of it in memory. Says which rows; who wants one reads
//! it, so that nobody acts on what was true a moment ago.

use std::sync::Arc;

use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::Table;

/// What is heard.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// These rows are other ones now, or gone.
    Rows(Arc<[(Table, Vec<u8>)]>),
    /// Nobody knows what changed: all is to be read anew.
    Anything,
}

/// One listener's place among the changes.
pub struct Changes(Receiver<Told>);

impl Changes {
    pub(super) fn new(told: Receiver<Told>) -> Changes {
        Changes(told)
    }

    /// `None`: the store was closed.
    pub async fn next(&mut self) -> Option<Told> {
        match self.0.recv().await {
            Ok(told) => Some(told),
            Err(RecvError::Lagged(_)) => Some(Told::Anything),
            Err(RecvError::Closed) => None,
        }
    }
}
