//! The way out: pieces of a streamed answer, as the host's window shows them, and whole texts.
//!
//! The host shows a part's text with up to `window` characters that it showed before, as this plugin left them, and keeps
//! as many back. Restoring needs no more than that: no placeholder is longer than the window. Masking decides about a
//! value once enough of the text after it is there, so that a split answer is masked as an unsplit one.

use crate::{
    detect::{AHEAD, BEHIND, Findings, Hint, Span, scan},
    json::{Decoded, Place, decode, escape},
    settings::{Mode, Settings},
    vault::{Full, Vault, restore},
};

/// What a piece is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Text, reasoning, a refusal; or a string that the host has taken out of its JSON.
    Text,
    /// JSON text of a tool call's arguments, cut anywhere.
    Arguments,
}

/// What is known of the parts of the current attempt's stream. Stays empty when answers are restored.
#[derive(Debug, Default)]
pub struct Answer {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    choice: u32,
    index: u32,
    /// The end of what was released.
    before: String,
    /// Where in a JSON text `before` begins.
    place: Place,
}

impl Answer {
    /// An attempt begins, and with it a new answer.
    pub fn clear(&mut self) {
        self.parts.clear();
    }

    /// A piece of a stream in its new form; `None` leaves it.
    pub fn piece(
        &mut self,
        settings: &Settings,
        vault: &mut Vault,
        (choice, index): (u32, u32),
        piece: Piece,
        text: &str,
    ) -> Result<Option<String>, Full> {
        match settings.mode {
            Mode::Restore => Ok(restore_in(vault, piece, text)),
            Mode::Mask => {
                let at = match self.parts.iter().position(|p| (p.choice, p.index) == (choice, index)) {
                    Some(at) => at,
                    None => {
                        self.parts.push(Part { choice, index, before: String::new(), place: Place::default() });
                        self.parts.len() - 1
                    }
                };
                let part = &mut self.parts[at];
                // While more may come, the host shows more than it will keep.
                let held = characters_from_end(text, settings.window());
                let masked = part.mask(settings, vault, piece, text, held)?;
                match held {
                    Some(_) => part.release(masked.as_deref().unwrap_or(text), settings.window()),
                    None => drop(self.parts.swap_remove(at)),
                }
                Ok(masked)
            }
        }
    }
}

/// A whole text of an answer in its new form; `None` leaves it.
pub fn whole(settings: &Settings, vault: &mut Vault, hint: Hint, text: &str) -> Result<Option<String>, Full> {
    if settings.mode == Mode::Restore {
        return Ok(restore_in(vault, Piece::Text, text));
    }
    let mut found = Findings::default();
    scan(text, settings.entities.union(settings.deny), hint, &mut found);
    if found.spans.is_empty() {
        return Ok(None);
    }
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for span in found.spans {
        out.push_str(&text[at..span.start]);
        vault.hide(span.kind, &text[span.start..span.end], &mut out)?;
        at = span.end;
    }
    out.push_str(&text[at..]);
    Ok(Some(out))
}

fn restore_in(vault: &Vault, piece: Piece, text: &str) -> Option<String> {
    restore(vault, text, |value, out| match piece {
        Piece::Text => out.push_str(value),
        Piece::Arguments => escape(value, out),
    })
}

impl Part {
    /// `held`: where in `text` begins what the host keeps back; `None` at the part's end.
    fn mask(
        &self,
        settings: &Settings,
        vault: &mut Vault,
        piece: Piece,
        text: &str,
        held: Option<usize>,
    ) -> Result<Option<String>, Full> {
        let joined = [&self.before, text].concat();
        let place = if piece == Piece::Arguments { self.place } else { Place::outside() };
        let decoded = decode(&joined, place, piece == Piece::Arguments);
        let mut found = Findings::default();
        scan(decoded.text(), settings.entities.union(settings.deny), Hint::None, &mut found);
        let from = self.before.len();
        let (mut out, mut at) = (String::new(), from);
        for span in found.spans {
            let (start, end) = (decoded.raw(span.start).max(from), decoded.raw(span.end));
            if end <= from {
                continue;
            }
            // Text still to come could make another match of it. It is shown again, unless it is longer than the window.
            let early = held.is_some_and(|held| end + AHEAD > joined.len() && start >= from + held);
            if early {
                break;
            }
            out.push_str(&joined[at..start]);
            let bare = piece == Piece::Arguments && !Place::inside(&joined[..start], place);
            self.write(vault, span, &decoded, bare, &mut out)?;
            at = end;
        }
        if at == from {
            return Ok(None);
        }
        out.push_str(&joined[at..]);
        Ok(Some(out))
    }

    fn write(
        &self,
        vault: &mut Vault,
        span: Span,
        decoded: &Decoded,
        bare: bool,
        out: &mut String,
    ) -> Result<(), Full> {
        // A number's place takes a string.
        let quote = if bare { "\"" } else { "" };
        out.push_str(quote);
        vault.hide(span.kind, &decoded.text()[span.start..span.end], out)?;
        out.push_str(quote);
        Ok(())
    }

    /// The host lets go of all but the window: keeps the end of that, for what comes.
    fn release(&mut self, made: &str, window: usize) {
        let free = &made[..characters_from_end(made, window).unwrap_or(0)];
        self.before.push_str(free);
        let mut cut = self.before.len().saturating_sub(BEHIND);
        while !self.before.is_char_boundary(cut) {
            cut -= 1;
        }
        self.place.pass(&self.before[..cut]);
        self.before.drain(..cut);
    }
}

/// Where the last `count` characters begin; `None`: there are no more than that.
fn characters_from_end(text: &str, count: usize) -> Option<usize> {
    if text.len() <= count {
        return None;
    }
    let (at, _) = text.char_indices().rev().nth(count - 1)?;
    (at > 0).then_some(at)
}
