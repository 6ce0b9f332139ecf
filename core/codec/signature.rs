//! How a signature of one family travels through another family's wire: `pc1:<format>:<data>`, so that it comes back to
//! its origin and to nobody else.

use crate::model::{Format, Signature};

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

/// Joins them again for a client whose wire has no other place for it.
pub fn join_id(id: &str, signature: Option<&Signature>) -> String {
    match signature {
        Some(s) if s.origin == Format::Gemini => format!("{id}{IN_ID}{}", s.data),
        _ => id.to_owned(),
    }
}

const TAG: &str = "pc1:";
