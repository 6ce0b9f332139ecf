//! Cuts a long text into chunks of so many tokens on the borders that mean most: paragraphs before lines before sentences
//! before words. Not for a serving thread: a large text takes its time.

use text_splitter::{ChunkConfig, ChunkSizer, TextSplitter};

use super::tokens;

/// Chunks of at most `most` tokens, in order, nothing left out but space around them.
pub fn cut<'t>(text: &'t str, most: usize, model: &str) -> Vec<&'t str> {
    let config = ChunkConfig::new(most.max(1)).with_sizer(Tokens(model));
    TextSplitter::new(config).chunks(text).collect()
}

struct Tokens<'m>(&'m str);

impl ChunkSizer for Tokens<'_> {
    fn size(&self, chunk: &str) -> usize {
        tokens::of(chunk, self.0)
    }
}
