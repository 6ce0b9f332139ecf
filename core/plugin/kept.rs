//! Compiled files between starts, by the engine's own cache: machine code in a folder that somebody lends, found by the
//! file's bytes and by all that decides what they become (the engine's version, its settings, the processor). To read code is
//! as good as to run it: whoever lends the folder answers for what lies in it.

use std::path::Path;

use wasmtime::{Cache, CacheConfig};

/// A folder of our own, in which nothing is found that was not sealed.
pub trait Keep: Send + Sync {
    fn folder(&self) -> &Path;
    /// What the engine has just written is whole: it is to be found at the next start.
    fn seal(&self);
}

/// `None`: then all is compiled at each start, and that was told.
pub fn cache(keep: &dyn Keep) -> Option<Cache> {
    let open = || {
        let mut config = CacheConfig::new();
        config
            .with_directory(std::path::absolute(keep.folder())?)
            // A file is never written a second time: what was sealed stays as it is.
            .with_optimized_compression_usage_counter_threshold(u64::MAX)
            .with_files_total_size_soft_limit(MOST_BYTES)
            .with_file_count_soft_limit(MOST_FILES);
        Cache::new(config)
    };
    match open() {
        Ok(cache) => Some(cache),
        Err(error) => {
            tracing::warn!(%error, folder = %keep.folder().display(), "compiled plugins cannot be kept");
            None
        }
    }
}

/// Beyond these the engine removes what was not used for longest.
const MOST_BYTES: u64 = 512 << 20;
const MOST_FILES: u64 = 1_000;
