//! How many tokens a text has. Two encodings are known exactly; models with one of their own are counted with the newer
//! of them, which is an estimate. Linear in the text's length, and it can be stopped.

use bpe_openai::{Tokenizer, cl100k_base, o200k_base};

/// Of `text` for `model`. `go_on` is asked now and then; `None` when it said no.
pub fn count(text: &str, model: &str, go_on: &dyn Fn() -> bool) -> Option<usize> {
    let tokenizer = encoding(model);
    let (mut sum, mut since) = (0, 0);
    for piece in tokenizer.split(text) {
        // What has no spaces comes in one piece: cut, it may count a token more.
        for part in piece.as_bytes().chunks(LONGEST_PIECE) {
            sum += tokenizer.bpe.count(part);
            since += part.len();
        }
        if since >= ASK_EVERY {
            since = 0;
            if !go_on() {
                return None;
            }
        }
    }
    Some(sum)
}

/// The same to its end.
pub fn of(text: &str, model: &str) -> usize {
    count(text, model, &|| true).unwrap_or_default()
}

/// Reads the tables now: a tenth of a second that no request should spend.
pub fn warm() {
    o200k_base();
    cl100k_base();
}

/// A name may have its provider in front.
fn encoding(model: &str) -> &'static Tokenizer {
    let name = model.rsplit('/').next().unwrap_or(model);
    if OLDER.iter().any(|prefix| name.starts_with(prefix)) && !NEWER.iter().any(|prefix| name.starts_with(prefix)) {
        return cl100k_base();
    }
    o200k_base()
}

/// Models that read cl100k, and those whose names begin so and do not.
const OLDER: [&str; 5] = ["gpt-4", "gpt-3.5", "gpt-35", "text-embedding-3", "text-embedding-ada"];
const NEWER: [&str; 3] = ["gpt-4o", "gpt-4.1", "gpt-4.5"];
const LONGEST_PIECE: usize = 16 << 10;
const ASK_EVERY: usize = 16 << 10;
