//! What one target's wire wants otherwise than its format's vendor: facts of the provider's row and the model's capability, as
//! codecs are told them. Decides nothing.

/// What a target's wire wants: data from the provider's row and the model's capability, not code.
#[derive(Debug, Clone, PartialEq)]
pub struct Dialect {
    /// The model's name upstream.
    pub model: String,
    /// The provider's catalogue name: native tags, id rules.
    pub provider: String,
    /// `max_tokens` or `max_completion_tokens` (OpenAI format).
    pub max_tokens_field: &'static str,
    /// What to send where the format requires a bound and the caller gave none (Anthropic).
    pub default_max_tokens: u64,
    pub developer_role: bool,
    /// `stream_options.include_usage` is understood.
    pub stream_options: bool,
    /// The field of a message that carries reasoning (`reasoning_content`, `reasoning`); `None`: reasoning is not sent back.
    pub reasoning_field: Option<&'static str>,
    /// Streams end without `[DONE]`.
    pub terminal_optional: bool,
    /// Tool-call ids must be exactly nine letters or digits.
    pub short_tool_ids: bool,
    /// Parameter knobs that this provider refuses, by canonical name (`seed`, `frequency_penalty`, `logit_bias`, …).
    pub refuses: &'static [&'static str],
    /// Fields of a request under this provider's own name: of embeddings, and a seed.
    pub renames: &'static [(&'static str, &'static str)],
    /// Features that this target lacks, by name (`images`, `documents`, `audio`, `tools`, `json_schema`, `n`, `logprobs`, …).
    pub lacks: &'static [&'static str],
    /// Sampling parameters are refused (newer Claude models).
    pub no_sampling: bool,
    /// It is known to think: sealed thoughts may be asked for (OpenAI Responses).
    pub reasons: bool,
    /// Takes `thinking: {type: enabled, budget_tokens}` (older Claude) rather than adaptive + effort.
    pub thinking_budget: bool,
    /// Takes structured output natively (`output_config.format`); else a forced tool stands in.
    pub native_schema: bool,
    /// Takes JSON Schema as it is (Gemini `parametersJsonSchema`/`responseJsonSchema`); else it is lowered.
    pub json_schema: bool,
    /// Takes media by URL.
    pub media_urls: bool,
    /// The field of a last assistant turn by which that turn is gone on with (OpenAI), and whether the answer says it again.
    pub prefill: Option<&'static str>,
    pub echoes: bool,
    /// Knows system turns in mid-conversation.
    pub mid_system: bool,
    /// The upstream's API version header value, where the format has one.
    pub version: Option<&'static str>,
    /// The tool by which this provider searches the web itself, in its format's words.
    pub search: Option<&'static str>,
    /// The tools by which it runs code and reads pages itself, likewise.
    pub code: Option<&'static str>,
    pub fetch: Option<&'static str>,
    /// It takes a search or functions, not both at once.
    pub search_alone: bool,
    /// The tools of its format that this provider runs; `None`: not known, all are passed on.
    pub hosted: Option<&'static [&'static str]>,
    /// Nothing is known of this server: the tools above are those of its format's vendor.
    pub assumed: bool,
    /// OpenAI: the request goes to the endpoint of legacy completions, with a prompt and not with messages.
    pub completions: bool,
}

impl Dialect {
    /// The format's own vendor, at its most common.
    pub fn of(model: &str) -> Self {
        Dialect {
            model: model.to_owned(),
            provider: String::new(),
            max_tokens_field: "max_completion_tokens",
            default_max_tokens: 8192,
            developer_role: true,
            stream_options: true,
            reasoning_field: None,
            terminal_optional: false,
            short_tool_ids: false,
            renames: &[],
            refuses: &[],
            lacks: &[],
            no_sampling: false,
            reasons: true,
            thinking_budget: true,
            native_schema: true,
            json_schema: true,
            media_urls: true,
            prefill: None,
            echoes: false,
            mid_system: false,
            version: None,
            search: None,
            code: None,
            fetch: None,
            search_alone: false,
            hosted: None,
            assumed: false,
            completions: false,
        }
    }

    /// Is a tool of its own format run there, as far as is known?
    pub fn runs(&self, tool: &str) -> bool {
        self.hosted.is_none_or(|known| known.contains(&tool))
    }

    /// The same target's endpoint of legacy completions.
    pub fn of_completions(&self) -> Self {
        Dialect { completions: true, max_tokens_field: "max_tokens", ..self.clone() }
    }
}
