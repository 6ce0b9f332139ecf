//! What a record holds: two pieces of bytes that mean something to its owner, and how they travel compressed. Pure.

use bytes::Bytes;

use crate::error::{Error, Kind, Result};

/// The inside of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    pub head: Bytes,
    pub body: Bytes,
}

impl Content {
    pub fn size(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Compressed, and how long it is when it is not.
    pub fn pack(&self) -> Result<(Vec<u8>, u32)> {
        let mut plain = Vec::with_capacity(self.size() + 4);
        plain.extend_from_slice(&u32::try_from(self.head.len()).map_err(|_| too_large())?.to_le_bytes());
        plain.extend_from_slice(&self.head);
        plain.extend_from_slice(&self.body);
        let size = u32::try_from(plain.len()).map_err(|_| too_large())?;
        let packed = zstd::bulk::compress(&plain, LEVEL)
            .map_err(|e| Error::new(Kind::Internal, "an answer could not be compressed").because(e))?;
        Ok((packed, size))
    }

    /// `plain` is believed: it stands under the seal.
    pub fn unpack(packed: &[u8], plain: u32) -> Option<Content> {
        let plain = Bytes::from(zstd::bulk::decompress(packed, plain as usize).ok()?);
        let length = u32::from_le_bytes(plain.get(..4)?.try_into().ok()?) as usize;
        let end = length.checked_add(4).filter(|end| *end <= plain.len())?;
        Some(Content { head: plain.slice(4..end), body: plain.slice(end..) })
    }
}

pub(super) fn too_large() -> Error {
    Error::new(Kind::Internal, "an answer is too large to be kept")
}

/// Conversations repeat themselves: the fastest level makes a third of them.
const LEVEL: i32 = 1;
