//! What an upstream's refusal is about, where its status alone does not tell: a prompt that is too long for the model, content that
//! its policy does not allow, an account without credit. Each vendor says so in words of its own, and they stand here, in one
//! list. Reads codes first and messages last, and decides nothing: what follows is said by `route::cause`.

use crate::error::{Error, Kind, UpstreamFault};

/// The gateway's words for it, whatever the upstream's were.
pub const CONTEXT: &str = "context_length_exceeded";
pub const POLICY: &str = "content_policy_violation";
/// The usual code of a filter.
pub const FILTERED: &str = "content_filter";
pub const QUOTA: &str = "insufficient_quota";

/// The same error, with a code that says what it is about. An upstream's own code for it stays as it is.
pub fn named(mut error: Error) -> Error {
    let Some(fault) = &error.upstream else { return error };
    let refused = error.kind == Kind::UpstreamRefused;
    let unpaid = error.kind == Kind::UpstreamAuth && fault.status == 402;
    let limited = error.kind == Kind::UpstreamRateLimited && error.retry_after.is_none();
    if !(refused || unpaid || limited) {
        return about_content(error);
    }
    let said = Said::of(fault, &error);
    if unpaid || said.is(&SPENT) {
        let message = "the gateway's account at this provider has no credit or no quota left; choose another model";
        error.message = if limited { std::mem::take(&mut error.message) } else { message.to_owned() };
        (error.kind, error.status) = (Kind::UpstreamRateLimited, None);
        return error.with_code(QUOTA);
    }
    if refused && fault.status == 400 && said.is(&KEY) {
        let message = "the upstream refused the gateway's own credentials; check this provider's key";
        (error.kind, error.status, error.message) = (Kind::UpstreamAuth, None, message.to_owned());
        return error.with_code("upstream_auth_error");
    }
    if refused && said.is(&LONG) {
        return error.with_code(CONTEXT);
    }
    if refused && (said.is(&AGAINST_POLICY) || error.upstream.as_ref().is_some_and(|fault| fault.status == BLOCKED)) {
        let own = POLICIES.contains(&error.code());
        return if own { error } else { error.with_code(POLICY) };
    }
    error
}

/// Some say of content that it is not allowed with a status that means a key, and some in a stream that began as a success. To be
/// asked as long as the upstream's own words are there.
pub fn about_content(error: Error) -> Error {
    let Some(fault) = &error.upstream else { return error };
    let otherwise = (fault.status == 403 && error.kind == Kind::UpstreamAuth) || error.kind == Kind::Upstream;
    if otherwise && Said::of(fault, &error).is(&AGAINST_POLICY) { not_allowed(error) } else { error }
}

/// Of an answer that was a success but for this: there is nothing in it.
pub fn withheld(by: &str) -> Error {
    let message = format!("the content filter of {by} let nothing of the answer through; rephrase the request");
    Error::new(Kind::UpstreamRefused, message).with_status(400).with_code(FILTERED)
}

/// Refused for what was asked, whatever its status says.
fn not_allowed(mut error: Error) -> Error {
    let message = "this provider does not allow the content of the request; rephrase it, or choose another model";
    // What was said of a key is not shown to callers; what is said here is about the request.
    let own = error.upstream.as_ref().and_then(|fault| fault.code.clone());
    (error.kind, error.status, error.message) = (Kind::UpstreamRefused, Some(400), message.to_owned());
    let own = own.filter(|code| POLICIES.contains(&code.as_str()));
    error.with_code(own.unwrap_or_else(|| POLICY.to_owned()))
}

/// Is this a code for content that a policy does not allow?
pub fn is_policy(code: &str) -> bool {
    POLICIES.contains(&code)
}

/// What was said, in small letters.
struct Said {
    codes: Vec<String>,
    message: String,
}

/// Words for one thing.
struct Words {
    codes: &'static [&'static str],
    messages: &'static [&'static str],
}

impl Said {
    fn of(fault: &UpstreamFault, error: &Error) -> Said {
        let own = [fault.kind.as_deref(), fault.code.as_deref(), Some(error.code())];
        let mut message: String = error.message.chars().take(LOOKED_AT).collect();
        // Of some statuses the upstream's own words are not shown to callers.
        if let Some(body) = fault.body.as_ref().filter(|_| error.kind != Kind::UpstreamRefused) {
            message.push_str(&String::from_utf8_lossy(&body[..body.len().min(LOOKED_AT)]));
        }
        let message = message.to_lowercase();
        Said { codes: own.into_iter().flatten().map(str::to_lowercase).collect(), message }
    }

    fn is(&self, words: &Words) -> bool {
        self.codes.iter().any(|code| words.codes.contains(&code.as_str()))
            || words.messages.iter().any(|words| self.message.contains(words))
    }
}

const LONG: Words = Words {
    codes: &[CONTEXT, "context_window_exceeded", "exceed_context_size_error", "string_above_max_length"],
    messages: &[
        // OpenAI, vLLM, SGLang, OpenRouter
        "maximum context length",
        "context length exceeded",
        "context_length_exceeded",
        "reduce the length of the messages",
        // OpenAI Responses
        "exceeds the context window",
        // Anthropic
        "prompt is too long",
        "exceed context limit",
        // Bedrock
        "input is too long",
        "too many input tokens",
        // Gemini
        "input token count",
        "exceeds the maximum number of tokens",
        "input tokens exceed",
        // Cohere
        "too many tokens",
        // Perplexity
        "length of all messages is too long",
        // Moonshot
        "exceeded model token limit",
        // Z.ai
        "prompt exceeds max length",
        // Alibaba
        "range of input length should be",
        // xAI
        "maximum prompt length",
        // Mistral
        "too large for model",
        // llama.cpp, Ollama
        "exceeds the available context size",
        "exceeds the context length",
        "exceeds maximum context",
        "prompt too long",
        // TGI
        "`inputs` tokens",
    ],
};

const AGAINST_POLICY: Words = Words {
    codes: &POLICIES,
    messages: &[
        // OpenRouter
        "your input was flagged",
        // xAI
        "violates usage guidelines",
        // Bedrock
        "blocked by our content filters",
        // Azure
        "content management policy",
        // Anthropic
        "content filtering policy",
        // OpenAI
        "violating our usage policy",
        "rejected by the safety system",
        "rejected as a result of our safety system",
        "content policy",
        // Alibaba
        "inappropriate content",
    ],
};

/// Codes that say so.
const POLICIES: [&str; 8] = [
    POLICY,
    FILTERED,
    "invalid_prompt",
    "image_content_policy_violation",
    "moderation_blocked",
    "responsibleaipolicyviolation",
    "data_inspection_failed",
    "datainspectionfailed",
];

/// Of the gateway's own key, said with a status that means the request.
const KEY: Words = Words {
    codes: &["invalid_api_key", "api_key_invalid"],
    // xAI
    messages: &["incorrect api key provided"],
};

const SPENT: Words = Words {
    codes: &[QUOTA, "billing_error", "servicequotaexceededexception", "billing_hard_limit_reached"],
    messages: &[
        // Anthropic
        "credit balance is too low",
        "api usage limits",
        "regain access on",
        // OpenAI, Gemini
        "exceeded your current quota",
        "billing hard limit",
        // DeepSeek, OpenRouter
        "insufficient balance",
        "insufficient credits",
    ],
};

/// A status of one vendor: a word of the text is blocked.
const BLOCKED: u16 = 498;
/// Characters of a message: what it is about stands at its beginning.
const LOOKED_AT: usize = 600;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: Option<&str>, message: &str) -> Error {
        let fault = UpstreamFault { status, code: code.map(str::to_owned), ..UpstreamFault::default() };
        Error::new(Kind::UpstreamRefused, message).with_status(status).from_upstream(fault)
    }

    #[test]
    fn a_prompt_that_is_too_long_has_one_code_in_every_vendors_words() {
        for said in [
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
            "prompt is too long: 200001 tokens > 200000 maximum",
            "input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000",
            "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576).",
            "Input is too long for requested model.",
            "too many tokens: total number of tokens in the prompt cannot exceed 4081",
            "the request exceeds the available context size, try increasing it",
            "prompt too long; exceeded max context length by 11 tokens",
            "The total length of all messages is too long.",
        ] {
            let error = named(refused(400, None, said));
            assert_eq!((error.code(), error.status(), error.kind), (CONTEXT, 400, Kind::UpstreamRefused), "{said}");
        }
        assert_eq!(named(refused(400, Some("context_length_exceeded"), "no")).code(), CONTEXT);
    }

    #[test]
    fn content_that_is_not_allowed_keeps_its_vendors_code() {
        let error = refused(400, Some("content_filter"), "filtered").with_code("content_filter");
        assert_eq!(named(error).code(), "content_filter");
        assert_eq!(named(refused(400, None, "Output blocked by content filtering policy")).code(), POLICY);
        assert_eq!(named(refused(498, None, "blocked")).code(), POLICY);
    }

    #[test]
    fn content_that_is_not_allowed_is_no_matter_of_keys_and_no_illness() {
        let fault = |status: u16| UpstreamFault { status, ..UpstreamFault::default() };
        let said = "openai/o1 requires moderation. Your input was flagged for violence.";
        let moderated = named(Error::new(Kind::UpstreamAuth, said).from_upstream(fault(403)));
        assert_eq!((moderated.kind, moderated.status(), moderated.code()), (Kind::UpstreamRefused, 400, POLICY));
        let key = named(Error::new(Kind::UpstreamAuth, "this key may not use the model").from_upstream(fault(403)));
        assert_eq!(key.kind, Kind::UpstreamAuth);
        let code = UpstreamFault { code: Some("content_filter".to_owned()), ..fault(500) };
        let in_stream = named(Error::new(Kind::Upstream, "filtered").from_upstream(code));
        assert_eq!((in_stream.kind, in_stream.code()), (Kind::UpstreamRefused, "content_filter"));
        let ill = named(Error::new(Kind::Upstream, "boom").from_upstream(fault(500)));
        assert_eq!(ill.kind, Kind::Upstream);
    }

    #[test]
    fn an_account_without_credit_is_a_quota_and_not_the_callers_fault() {
        let low = named(refused(400, None, "Your credit balance is too low to access the API."));
        assert_eq!((low.status(), low.code(), low.kind), (429, QUOTA, Kind::UpstreamRateLimited));
        let fault = UpstreamFault { status: 402, ..UpstreamFault::default() };
        let unpaid = named(Error::new(Kind::UpstreamAuth, "pay").from_upstream(fault));
        assert_eq!((unpaid.status(), unpaid.code()), (429, QUOTA));
    }

    #[test]
    fn a_key_that_is_refused_as_a_bad_request_is_the_gateways_own_fault() {
        let error =
            named(refused(400, None, "Incorrect API key provided: sk-12***89. You can obtain an API key elsewhere."));
        assert_eq!((error.kind, error.status(), error.code()), (Kind::UpstreamAuth, 502, "upstream_auth_error"));
        assert!(!error.message.contains("sk-"), "{}", error.message);
        let about = refused(422, None, "field `key`: incorrect api key provided in the example");
        assert_eq!(named(about).kind, Kind::UpstreamRefused);
    }

    #[test]
    fn what_nobody_can_tell_stays_as_it_was() {
        let error = named(refused(400, None, "messages: roles must alternate"));
        assert_eq!(error.code(), "upstream_refused");
        let fault = UpstreamFault { status: 429, ..UpstreamFault::default() };
        let limited = Error::new(Kind::UpstreamRateLimited, "You exceeded your current quota")
            .retry_after(std::time::Duration::from_secs(17))
            .from_upstream(fault);
        assert_eq!(named(limited).code(), "upstream_rate_limited", "it says when it returns: that is a rate");
        let own = named(Error::new(Kind::InvalidRequest, "prompt is too long"));
        assert_eq!(own.code(), "invalid_request", "only an upstream's words are looked at");
    }
}
