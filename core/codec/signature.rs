//! How a signature of one family travels through another family's wire: `pc1:<format>:<data>`, so that it comes back to
//! its origin and to nobody else.

use base64::{
    Engine, alphabet,
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD, URL_SAFE},
    },
};

use crate::model::{Delta, Event, Extra, Format, Part, PartStart, Reasoning, Signature};

/// For a client of format `wire`: plain where `wire` would assume that origin anyway, else tagged.
pub fn write(signature: &Signature, wire: Format) -> String {
    if default_origin(wire) == signature.origin {
        signature.data.clone()
    } else {
        format!("{TAG}{}:{}", signature.origin.name(), signature.data)
    }
}

/// What a client of format `wire` sent back.
pub fn read(text: &str, wire: Format) -> Signature {
    text.strip_prefix(TAG)
        .and_then(|rest| rest.split_once(':'))
        .and_then(|(name, data)| Some(Signature { origin: Format::parse(name)?, data: data.to_owned() }))
        .unwrap_or_else(|| Signature { origin: default_origin(wire), data: text.to_owned() })
}

/// May thoughts that `origin` signed go back over `wire`, to `model`? Claude's seals hold at its vendor and at AWS alike (the vendor's
/// own words on extended thinking), and AWS tells a signature of no other maker's thoughts. Of sealed text that is not known.
pub fn holds(origin: Format, wire: Format, model: &str) -> bool {
    const HOSTS: [Format; 2] = [Format::AnthropicMessages, Format::BedrockConverse];
    let claude = || model.to_ascii_lowercase().contains("claude");
    origin == wire || HOSTS.contains(&origin) && HOSTS.contains(&wire) && claude()
}

/// Can all of a turn's thoughts go back so? Some of them alone would be a turn that was changed, which is refused.
pub fn all_hold(parts: &[Part], wire: Format, model: &str) -> bool {
    parts.iter().all(|part| match part {
        Part::Reasoning(Reasoning { sealed: Some(sealed), .. }) => sealed.origin == wire,
        Part::Reasoning(Reasoning { signature: Some(signature), .. }) => holds(signature.origin, wire, model),
        _ => true,
    })
}

/// OpenAI chat has no signatures of its own; an untagged one there is Anthropic's (`thinking_blocks`, the field's habit).
const fn default_origin(wire: Format) -> Format {
    match wire {
        Format::OpenaiChat | Format::AnthropicMessages => Format::AnthropicMessages,
        other => other,
    }
}

/// In a tool-call id, between the id and a Gemini thought signature: what LiteLLM and agentgateway write too.
pub const IN_ID: &str = "__thought__";

/// Splits a tool-call id into the id and the signature that was smuggled in it.
pub fn split_id(id: &str) -> (&str, Option<Signature>) {
    match id.split_once(IN_ID) {
        Some((id, data)) if !data.is_empty() => (id, Some(Signature { origin: Format::Gemini, data: data.to_owned() })),
        Some((id, _)) => (id, None),
        None => (id, None),
    }
}

/// Joins them again for a client whose wire has no other place for it: only where the gateway made the id. One of the upstream's
/// own stays as it is (`beside_call`).
pub fn join_id(id: &str, signature: Option<&Signature>) -> String {
    match signature {
        Some(s) if s.origin == Format::Gemini => format!("{id}{IN_ID}{}", s.data),
        _ => id.to_owned(),
    }
}

/// The thought signature of a call whose id is the upstream's own: it stands before the call, as sealed reasoning, which every
/// client sends back.
pub fn beside_call<'a>(id: &str, signature: Option<&'a Signature>) -> Option<&'a Signature> {
    let own = !id.is_empty() && !id.starts_with(MADE);
    signature.filter(|signature| own && signature.origin == Format::Gemini)
}

/// The id of a call that has one, as its client sees it.
pub fn told_id(id: &str, signature: Option<&Signature>) -> String {
    if beside_call(id, signature).is_some() { id.to_owned() } else { join_id(id, signature) }
}

/// How an id begins that the gateway made as it read an answer, of a call that came without one.
pub const MADE: &str = "call_gm_";

/// The beginning of such a call in a stream, with what stands before it.
pub fn apart(event: &Event) -> Option<[Event; 4]> {
    let Event::PartStart { choice, index, part: PartStart::ToolCall { id, name, kind, signature, extra } } = event
    else {
        return None;
    };
    let sealed = beside_call(id, signature.as_ref())?.clone();
    // No stream has so many parts.
    let (choice, before) = (*choice, u32::MAX - index);
    let (id, name, kind, extra) = (id.clone(), name.clone(), *kind, extra.clone());
    let call = PartStart::ToolCall { id, name, kind, signature: None, extra };
    Some([
        Event::PartStart { choice, index: before, part: PartStart::Reasoning { extra: Extra::default() } },
        Event::Delta { choice, index: before, delta: Delta::Sealed(sealed) },
        Event::PartEnd { choice, index: before },
        Event::PartStart { choice, index: *index, part: call },
    ])
}

/// For wires whose field is bytes: base64, which SDKs decode and write anew in the alphabet they like. Data that is base64 itself
/// stays readable behind a head that names its origin; other data is wrapped together with its tag. `mark` tells kinds of
/// data apart.
pub fn wrap(signature: &Signature, mark: &str) -> String {
    let Signature { origin, data } = signature;
    let same = |engine: &GeneralPurpose| engine.decode(data).is_ok_and(|bytes| engine.encode(bytes) == *data);
    match ALPHABETS.iter().find(|(_, engine)| !data.is_empty() && same(engine)) {
        // The standard alphabet is the one that all SDKs read.
        Some((sign, _)) => {
            format!("{}{}", STANDARD.encode(head(*sign, mark, *origin)), data.replace('-', "+").replace('_', "/"))
        }
        None => STANDARD.encode(format!("{TAG}{mark}{}:{data}", origin.name())),
    }
}

/// What `wrap` made with this mark, if it did.
pub fn unwrap(text: &str, mark: &str) -> Option<Signature> {
    if !text.starts_with(WRAPPED) {
        return None;
    }
    let bytes = LENIENT.decode(text.replace('-', "+").replace('_', "/")).ok()?;
    for (origin, (sign, engine)) in Format::ALL.iter().flat_map(|origin| ALPHABETS.iter().map(move |a| (*origin, a))) {
        if let Some(data) = bytes.strip_prefix(head(*sign, mark, origin).as_bytes()) {
            return Some(Signature { origin, data: engine.encode(data) });
        }
    }
    let tagged = String::from_utf8(bytes).ok()?;
    let (name, data) = tagged.strip_prefix(TAG)?.strip_prefix(mark)?.split_once(':')?;
    Some(Signature { origin: Format::parse(name)?, data: data.to_owned() })
}

/// As many bytes as fill whole groups of base64, so that what follows is written as it was.
fn head(sign: char, mark: &str, origin: Format) -> String {
    let mut head = format!("pc1{sign}{mark}{}{sign}", origin.name());
    while !head.len().is_multiple_of(3) {
        head.push(sign);
    }
    head
}

/// The alphabets that data may be written in, each with a sign for it.
const ALPHABETS: [(char, GeneralPurpose); 2] = [('/', STANDARD), ('-', URL_SAFE)];

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const TAG: &str = "pc1:";

/// What base64 makes of `pc1`: the beginning of all that is wrapped.
pub const WRAPPED: &str = "cGMx";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sdks_decode_and_write_anew_comes_back_as_it_was() {
        // Standard, url-safe, no base64 at all, and base64 that nobody would write like that.
        for data in ["+/+/AAAA", "gAAAAA-_Zm9v", "Zm9vYg==", "rs_1:Zm9v", "abc", "Zm9vYh==", ""] {
            for (origin, mark) in Format::ALL.into_iter().flat_map(|f| [(f, ""), (f, "sealed:")]) {
                let given = Signature { origin, data: data.to_owned() };
                let wrapped = wrap(&given, mark);
                assert!(wrapped.starts_with(WRAPPED));
                let readable = matches!(data, "" | "+/+/AAAA" | "Zm9vYg==");
                assert_eq!(wrapped.contains(data), readable, "{data}");
                assert!(STANDARD.decode(&wrapped).is_ok(), "{wrapped}");
                let bytes = LENIENT.decode(wrapped.replace('-', "+").replace('_', "/")).expect("base64");
                for text in [wrapped.clone(), STANDARD.encode(&bytes), URL_SAFE.encode(&bytes)] {
                    assert_eq!(unwrap(&text, mark).as_ref(), Some(&given), "{text}");
                    let other = if mark.is_empty() { "sealed:" } else { "" };
                    assert_eq!(unwrap(&text, other), None);
                }
            }
        }
        assert_eq!(unwrap("CpcBAdHtim8=", ""), None);
        assert_eq!(unwrap("cGMxL2", ""), None);
    }
}
