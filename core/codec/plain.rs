//! Frames that tell nothing but text: nearly all frames of an answer differ from one another only inside a text. `Plain`
//! keeps one frame that was looked at, and says of others whether they are like it, so that they need no look. Knows no
//! format, and reads no text.

/// A frame of JSON in one line, of which its owner knows that it tells nothing but text.
#[derive(Debug, Default)]
pub struct Plain {
    frame: Vec<u8>,
    /// Is this byte in a text that is a value, its closing quote included?
    open: Vec<bool>,
}

impl Plain {
    pub fn learn(&mut self, frame: &[u8]) {
        self.frame.clear();
        self.open.clear();
        if frame.len() > LONGEST {
            return;
        }
        self.frame.extend_from_slice(frame);
        self.open.resize(frame.len(), false);
        let mut at = 0;
        while let Some(from) = memchr::memchr(b'"', &frame[at..]).map(|quote| at + quote + 1) {
            let Some(to) = end(&frame[from..]).map(|quote| from + quote) else { return };
            let after = frame[to + 1..].iter().find(|byte| !byte.is_ascii_whitespace());
            if after != Some(&b':') {
                self.open[from..=to].fill(true);
            }
            at = to + 1;
        }
    }

    /// Has it the same keys and the same values but for texts? Texts with escapes are not compared.
    pub fn is_like(&self, frame: &[u8]) -> bool {
        let (mut mine, mut its) = (self.frame.as_slice(), frame);
        if mine.is_empty() {
            return false;
        }
        loop {
            let same = shared(mine, its);
            (mine, its) = (&mine[same..], &its[same..]);
            if mine.is_empty() || its.is_empty() {
                return mine.len() == its.len();
            }
            let at = self.frame.len() - mine.len();
            // After a backslash a quote ends nothing.
            if !self.open[at] || self.frame[at - 1] == b'\\' {
                return false;
            }
            // Up to here both are the same, so they are inside the same text.
            let (Some(my_end), Some(its_end)) = (end(mine), simple(its)) else { return false };
            (mine, its) = (&mine[my_end..], &its[its_end..]);
        }
    }
}

/// How many bytes they share at their beginning.
fn shared(a: &[u8], b: &[u8]) -> usize {
    let words = a.chunks_exact(WORD).zip(b.chunks_exact(WORD)).take_while(|(a, b)| a == b).count() * WORD;
    words + a[words..].iter().zip(&b[words..]).take_while(|(a, b)| a == b).count()
}

/// Inside a text: where its closing quote stands.
fn end(rest: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', &rest[at..])?;
        if rest[at] == b'"' {
            return Some(at);
        }
        at += 2;
        if at > rest.len() {
            return None;
        }
    }
}

/// The same for a text without escapes; what stands before may be the first half of one.
fn simple(rest: &[u8]) -> Option<usize> {
    let at = memchr::memchr3(b'"', b'\\', b'\n', rest)?;
    (rest[at] == b'"').then_some(at)
}

const WORD: usize = 16;
/// Longer ones are looked at one by one.
const LONGEST: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: &str =
        r#"data: {"id":"c-1","choices":[{"index":0,"delta":{"content":"a \"b\""},"finish_reason":null}],"p":"xy"}"#;

    fn like(frame: &str) -> bool {
        let mut plain = Plain::default();
        plain.learn(FRAME.as_bytes());
        plain.is_like(frame.as_bytes())
    }

    #[test]
    fn frames_that_differ_in_texts_alone_are_like_it() {
        assert!(like(FRAME));
        for (from, to) in [
            (r#""a \"b\"""#, r#""""#),
            (r#""a \"b\"""#, r#""a""#),
            (r#""a \"b\"""#, r#""tide — and moon""#),
            (r#""xy""#, r#""""#),
            (r#""xy""#, r#""xyz""#),
            (r#""c-1""#, r#""c-22""#),
        ] {
            assert!(FRAME.contains(from) && like(&FRAME.replacen(from, to, 1)), "{to}");
        }
        assert!(like(&FRAME.replace("xy", "z").replace(r#"a \"b\""#, "other")), "several at once");
    }

    #[test]
    fn frames_that_could_tell_more_are_not() {
        for (from, to) in [
            ("null", r#""stop""#),
            ("null", r#""""#),
            (r#""p":"xy""#, r#""usage":{"total":1}"#),
            (r#""p":"xy""#, r#""q":"xy""#),
            (r#""p":"xy""#, r#""p":1"#),
            (r#""p":"xy""#, r#""p":"xy","error":{}"#),
            (r#""index":0"#, r#""index":1"#),
            (r#""a \"b\"""#, r#""a \n""#),
            (r#""a \"b\"""#, r#""a \"b\\"""#),
            (r#""a \"b\"""#, r#""a","finish_reason":"stop""#),
            ("{", "[DONE]"),
        ] {
            assert!(FRAME.contains(from) && !like(&FRAME.replacen(from, to, 1)), "{to}");
        }
        for cut in 0..FRAME.len() {
            assert!(!like(&FRAME[..cut]), "{cut}");
        }
        assert!(!like(&format!("{FRAME}\n")) && !Plain::default().is_like(b""));
    }
}
