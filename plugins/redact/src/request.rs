//! The way in: all strings of a request, scanned first and rewritten after, so that a placeholder-like text of the
//! caller's own, wherever it stands, is known before the first number is given.

use crate::{
    detect::{Findings, Hint, Kind, Kinds, scan},
    settings::{Mode, Settings},
    vault::Vault,
};

/// One string of the request.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    pub id: u32,
    pub text: &'a str,
    pub role: Role,
}

/// What it is, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Plain,
    /// The name of a field: it says what the next text is.
    Name,
    /// Signed by its model: only values that are known already may become what the model had seen and signed.
    Signed,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing found.
    Clean,
    /// New texts by their ids.
    Change(Vec<(u32, String)>),
    /// A kind that the configuration does not let through.
    Denied(Kind),
    /// More different values than can be named.
    TooMany,
}

/// Masks a request. What was hidden is in `vault`.
pub fn mask(settings: &Settings, vault: &mut Vault, texts: &[Text]) -> Verdict {
    let kinds = settings.entities.union(settings.deny);
    let mut found = Findings::default();
    // (text, its first span, the one after its last)
    let mut hits: Vec<(usize, usize, usize)> = Vec::new();
    let mut hint = Hint::None;
    for (n, text) in texts.iter().enumerate() {
        let from = found.spans.len();
        match text.role {
            Role::Plain | Role::Name => scan(text.text, kinds, hint, &mut found),
            Role::Signed => scan(text.text, Kinds::default(), Hint::None, &mut found),
        }
        hint = if text.role == Role::Name { Hint::of(text.text) } else { Hint::None };
        if let Some(span) = found.spans[from..].iter().find(|s| settings.deny.has(s.kind)) {
            return Verdict::Denied(span.kind);
        }
        if found.spans.len() > from {
            hits.push((n, from, found.spans.len()));
        }
    }
    if hits.is_empty() {
        return Verdict::Clean;
    }
    // What nobody restores cannot be restored wrongly: then the numbers of earlier turns may be met again.
    if settings.mode == Mode::Restore {
        found.reserved.iter().for_each(|(kind, number)| vault.reserve(*kind, *number));
    }
    let mut edits = Vec::with_capacity(hits.len());
    for (n, from, to) in hits {
        let Text { id, text, .. } = texts[n];
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        for span in &found.spans[from..to] {
            out.push_str(&text[at..span.start]);
            if vault.hide(span.kind, &text[span.start..span.end], &mut out).is_err() {
                return Verdict::TooMany;
            }
            at = span.end;
        }
        out.push_str(&text[at..]);
        edits.push((id, out));
    }
    // What was never restored is left alone: masking it would break its signature.
    let restored = settings.mode == Mode::Restore;
    for text in texts.iter().filter(|t| t.role == Role::Signed && restored) {
        edits.extend(vault.hide_known(text.text).map(|out| (text.id, out)));
    }
    Verdict::Change(edits)
}
