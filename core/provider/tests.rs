use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue};

use super::{catalog::rows, *};
use crate::config::{Places, Provider as Settings};

const SECRET: &str = "sk-very-secret-0123456789";

fn settings(name: &str) -> Settings {
    Settings { name: name.to_owned(), keys: vec![Secret::new(SECRET)], ..Settings::default() }
}

/// Every row, with a key, and with the names that its address is made of.
fn provider(name: &str) -> Provider {
    Provider::resolve(Settings { places: places(name), ..settings(name) }).unwrap()
}

fn places(name: &str) -> Places {
    let row = row(name).unwrap();
    let wants = |word: &str, value: &str| {
        let there = row.base_url.is_some_and(|url| url.contains(word));
        there.then(|| value.to_owned())
    };
    Places {
        region: wants("{region}", "eu-west-1"),
        project: wants("{project}", "acme"),
        location: wants("{location}", "europe-west4"),
        resource: wants("{resource}", "res"),
        api_version: None,
    }
}

/// A key put on a call with an empty body.
fn sign(provider: &Provider, url: Uri, headers: HeaderMap, choice: KeyChoice) -> Result<Signed> {
    provider.sign(Unsigned { method: Method::POST, url, headers, body: &[] }, choice, None)
}

fn with_keys(count: usize) -> Provider {
    let keys = (0..count).map(|n| Secret::new(format!("key-{n}"))).collect();
    Provider::resolve(Settings { keys, ..settings("openai") }).unwrap()
}

#[test]
fn catalogue_and_capabilities_are_well_formed() {
    let parsed = catalog::parse(include_str!("catalog.toml")).unwrap();
    assert_eq!(parsed.len(), rows().len());
    assert!(rows().len() >= 29);
    for row in rows() {
        assert!(row.name == "mock" || row.source.starts_with("https://"), "{} needs a source page", row.name);
        assert_eq!(row.date.len(), 10, "{} needs a date", row.name);
        assert_eq!(catalog::row(row.name).map(|r| r.name), Some(row.name));
        let headers: HashSet<_> = row.headers.iter().collect();
        assert!(headers.iter().all(|h| **h == h.to_ascii_lowercase()));
        assert!(!row.headers.iter().any(|h| ["openai-organization", "openai-project", "idempotency-key"].contains(h)));
    }
    let models = capability::parse(include_str!("capability.toml")).unwrap();
    let prefixes: HashSet<_> = models.iter().map(|m| m.prefix).collect();
    assert_eq!(prefixes.len(), models.len(), "a prefix stands twice");
    for model in &models {
        assert!(model.prefix == model.prefix.to_ascii_lowercase() && model.source.starts_with("https://"), "{model:?}");
        assert!(model.date.len() == 10 && model.prefix == capability::normal(model.prefix), "{model:?}");
        let both: Vec<_> = model.features.iter().filter(|f| model.lacks.contains(f)).collect();
        assert!(both.is_empty(), "{} has and lacks {both:?}", model.prefix);
    }
}

#[test]
fn no_two_rows_claim_the_same_bare_name() {
    let claims: Vec<_> = rows().iter().flat_map(|r| r.models.iter().map(move |m| (r.name, *m))).collect();
    for (owner, prefix) in &claims {
        for (other, longer) in &claims {
            assert!(owner == other || !longer.starts_with(prefix), "{owner} and {other} both claim {longer}");
        }
    }
}

#[test]
fn every_row_has_its_url_its_credential_and_its_quirks() {
    // name, chat URL, header that carries the key, max-tokens field, stream_options, developer, open end
    let bearer = "authorization";
    let table = [
        ("openai", "https://api.openai.com/v1/chat/completions", bearer, "max_completion_tokens", true, true, false),
        ("anthropic", "https://api.anthropic.com/v1/messages", "x-api-key", "max_tokens", false, false, false),
        (
            "gemini",
            "https://generativelanguage.googleapis.com/v1beta/models/m:generateContent",
            "x-goog-api-key",
            "max_tokens",
            false,
            false,
            false,
        ),
        (
            "azure",
            "https://res.openai.azure.com/openai/v1/chat/completions",
            "api-key",
            "max_completion_tokens",
            true,
            true,
            false,
        ),
        (
            "azure-legacy",
            "https://res.openai.azure.com/openai/deployments/m/chat/completions?api-version=2024-10-21",
            "api-key",
            "max_completion_tokens",
            true,
            true,
            false,
        ),
        (
            "azure-anthropic",
            "https://res.services.ai.azure.com/anthropic/v1/messages",
            "x-api-key",
            "max_tokens",
            false,
            false,
            false,
        ),
        (
            "bedrock",
            "https://bedrock-runtime.eu-west-1.amazonaws.com/model/m/converse",
            bearer,
            "max_tokens",
            false,
            false,
            false,
        ),
        (
            "bedrock-anthropic",
            "https://bedrock-runtime.eu-west-1.amazonaws.com/model/m/invoke",
            bearer,
            "max_tokens",
            false,
            false,
            false,
        ),
        (
            "bedrock-mantle",
            "https://bedrock-mantle.eu-west-1.api.aws/anthropic/v1/messages",
            bearer,
            "max_tokens",
            false,
            false,
            false,
        ),
        (
            "bedrock-openai",
            "https://bedrock-mantle.eu-west-1.api.aws/v1/chat/completions",
            bearer,
            "max_completion_tokens",
            true,
            true,
            false,
        ),
        (
            "vertex",
            "https://europe-west4-aiplatform.googleapis.com/v1/projects/acme/locations/europe-west4/publishers/google/models/m:generateContent",
            bearer,
            "max_tokens",
            false,
            false,
            false,
        ),
        (
            "vertex-anthropic",
            "https://europe-west4-aiplatform.googleapis.com/v1/projects/acme/locations/europe-west4/publishers/anthropic/models/m:rawPredict",
            bearer,
            "max_tokens",
            false,
            false,
            false,
        ),
        (
            "vertex-openai",
            "https://europe-west4-aiplatform.googleapis.com/v1/projects/acme/locations/europe-west4/endpoints/openapi/chat/completions",
            bearer,
            "max_tokens",
            true,
            false,
            false,
        ),
        ("mistral", "https://api.mistral.ai/v1/chat/completions", bearer, "max_tokens", false, false, false),
        (
            "groq",
            "https://api.groq.com/openai/v1/chat/completions",
            bearer,
            "max_completion_tokens",
            true,
            false,
            false,
        ),
        ("deepseek", "https://api.deepseek.com/chat/completions", bearer, "max_tokens", true, false, false),
        ("xai", "https://api.x.ai/v1/chat/completions", bearer, "max_completion_tokens", true, false, false),
        ("perplexity", "https://api.perplexity.ai/chat/completions", bearer, "max_tokens", false, false, true),
        (
            "openrouter",
            "https://openrouter.ai/api/v1/chat/completions",
            bearer,
            "max_completion_tokens",
            true,
            true,
            false,
        ),
        ("together", "https://api.together.xyz/v1/chat/completions", bearer, "max_tokens", true, false, false),
        (
            "fireworks",
            "https://api.fireworks.ai/inference/v1/chat/completions",
            bearer,
            "max_tokens",
            true,
            false,
            false,
        ),
        (
            "cerebras",
            "https://api.cerebras.ai/v1/chat/completions",
            bearer,
            "max_completion_tokens",
            true,
            false,
            false,
        ),
        ("sambanova", "https://api.sambanova.ai/v1/chat/completions", bearer, "max_tokens", true, false, false),
        ("nvidia", "https://integrate.api.nvidia.com/v1/chat/completions", bearer, "max_tokens", true, false, false),
        ("nebius", "https://api.tokenfactory.nebius.com/v1/chat/completions", bearer, "max_tokens", true, false, false),
        ("huggingface", "https://router.huggingface.co/v1/chat/completions", bearer, "max_tokens", true, false, false),
        ("github", "https://models.github.ai/inference/chat/completions", bearer, "max_tokens", true, false, false),
        ("moonshot", "https://api.moonshot.ai/v1/chat/completions", bearer, "max_tokens", true, false, false),
        ("zai", "https://api.z.ai/api/paas/v4/chat/completions", bearer, "max_tokens", true, false, false),
        (
            "alibaba",
            "https://dashscope-intl.aliyuncs.com/compatible-mode/v1/chat/completions",
            bearer,
            "max_tokens",
            true,
            false,
            false,
        ),
        ("cohere", "https://api.cohere.com/v2/chat", bearer, "max_tokens", false, false, false),
        ("ollama-native", "http://127.0.0.1:11434/api/chat", bearer, "max_tokens", false, false, false),
        ("ollama", "http://127.0.0.1:11434/v1/chat/completions", bearer, "max_tokens", true, false, false),
        ("vllm", "http://127.0.0.1:8000/v1/chat/completions", bearer, "max_tokens", true, false, false),
        ("sglang", "http://127.0.0.1:30000/v1/chat/completions", bearer, "max_tokens", true, false, false),
        ("llamacpp", "http://127.0.0.1:8080/v1/chat/completions", bearer, "max_tokens", true, false, false),
        ("lmstudio", "http://127.0.0.1:1234/v1/chat/completions", bearer, "max_tokens", true, false, false),
        ("voyage", "https://api.voyageai.com/v1/chat/completions", bearer, "max_tokens", false, false, false),
        ("jina", "https://api.jina.ai/v1/chat/completions", bearer, "max_tokens", false, false, false),
        ("litellm", "http://127.0.0.1:4000/v1/chat/completions", bearer, "max_tokens", true, true, false),
        ("mock", "http://mock.invalid/v1/chat/completions", bearer, "max_tokens", true, true, false),
    ];
    assert_eq!(table.len(), rows().len(), "a row is not in this table");
    for (name, url, header, max_tokens, stream_options, developer, open_end) in table {
        let provider = provider(name);
        let chat = provider.url(Operation::Chat, "m", false).unwrap();
        assert_eq!(chat.to_string(), url);
        let headers = provider.headers(&HeaderMap::new(), true, false);
        let (_, _, headers) = sign(&provider, chat, headers, KeyChoice::Key(0)).unwrap().into_parts();
        let carried = headers[header].to_str().unwrap();
        assert_eq!(carried, if header == bearer { format!("Bearer {SECRET}") } else { SECRET.to_owned() }, "{name}");
        assert!(headers[header].is_sensitive());
        assert_eq!(headers["accept-encoding"], "identity");
        let dialect = provider.dialect("m");
        assert_eq!(
            (dialect.max_tokens_field, dialect.stream_options, dialect.developer_role, dialect.terminal_optional),
            (max_tokens, stream_options, developer, open_end),
            "{name}"
        );
        assert_eq!(dialect.short_tool_ids, name == "mistral");
        assert_eq!(dialect.provider, name);
        assert!(provider.ready());
    }
}

#[test]
fn operations_lie_where_the_format_says() {
    let url = |name: &str, operation, stream| provider(name).url(operation, "m", stream).map(|u| u.to_string());
    let gemini = "https://generativelanguage.googleapis.com/v1beta/models";
    assert_eq!(url("gemini", Operation::Chat, true).unwrap(), format!("{gemini}/m:streamGenerateContent?alt=sse"));
    assert_eq!(url("gemini", Operation::Embeddings, false).unwrap(), format!("{gemini}/m:batchEmbedContents"));
    assert_eq!(url("gemini", Operation::CountTokens, false).unwrap(), format!("{gemini}/m:countTokens"));
    assert_eq!(
        url("anthropic", Operation::CountTokens, false).unwrap(),
        "https://api.anthropic.com/v1/messages/count_tokens"
    );
    assert_eq!(url("perplexity", Operation::Embeddings, false).unwrap(), "https://api.perplexity.ai/v1/embeddings");
    assert_eq!(url("openai", Operation::Embeddings, false).unwrap(), "https://api.openai.com/v1/embeddings");
    for name in ["anthropic", "groq", "deepseek", "cerebras"] {
        let error = url(name, Operation::Embeddings, false).unwrap_err();
        assert_eq!((error.status(), error.code()), (400, "unsupported_feature"), "{name}");
    }
    let counts = |name: &str| {
        let provider = provider(name);
        provider.counts(provider.format, "m")
    };
    assert!(counts("gemini") && counts("anthropic") && !counts("openai"));
    assert!(
        provider("openai").counts(Format::OpenaiResponses, "m")
            && !provider("groq").counts(Format::OpenaiResponses, "m")
    );
}

#[test]
fn what_else_azure_offers_lies_behind_its_v1_address_with_the_deployment_as_the_model() {
    let azure = provider("azure");
    let behind = |rest: &str| format!("https://res.openai.azure.com/openai/v1{rest}");
    for (operation, rest) in [
        (Operation::GenerateImage, "/images/generations"),
        (Operation::Speech, "/audio/speech"),
        (Operation::Transcription, "/audio/transcriptions"),
        (Operation::Translation, "/audio/translations"),
        (Operation::UploadFile, "/files"),
        (Operation::CreateBatch, "/batches"),
    ] {
        assert_eq!(azure.place(operation, None, None).unwrap().to_string(), behind(rest), "{operation:?}");
    }
    assert_eq!(azure.session("my-voice", None).unwrap().to_string(), behind("/realtime?model=my-voice"));
    assert!(azure.offers(Operation::Compact) && !azure.offers(Operation::Rerank));
}

#[test]
fn a_hostile_model_name_stays_one_path_segment() {
    let gemini = provider("gemini");
    let base = "https://generativelanguage.googleapis.com/v1beta/models/";
    for (name, segment) in [
        ("gemini-2.5-pro", "gemini-2.5-pro"),
        ("../../v1/files", "..%2F..%2Fv1%2Ffiles"),
        ("..%2f..", "..%252f.."),
        ("a/b", "a%2Fb"),
        ("m:streamGenerateContent", "m%3AstreamGenerateContent"),
        ("m?key=x&a=b", "m%3Fkey%3Dx%26a%3Db"),
        ("m#f", "m%23f"),
        ("@evil.example", "%40evil.example"),
        ("\\evil", "%5Cevil"),
        ("ü 漢", "%C3%BC%20%E6%BC%A2"),
        ("models/x", "x"),
    ] {
        let url = gemini.url(Operation::Chat, name, false).unwrap();
        assert_eq!(url.to_string(), format!("{base}{segment}:generateContent"), "{name}");
        assert_eq!(url.host(), Some("generativelanguage.googleapis.com"));
        assert_eq!(url.query(), None);
    }
    let long = "m".repeat(600);
    for name in ["", ".", "..", "models/", "models/..", "a\nb", "a\0b", "\u{85}", long.as_str()] {
        let error = gemini.url(Operation::Chat, name, false).unwrap_err();
        assert_eq!((error.status(), error.code()), (400, "invalid_model"), "{name:?}");
    }
    // Where the model stands in the body, no name changes the URL.
    let openai = provider("openai").url(Operation::Chat, "../x?y#z", false).unwrap();
    assert_eq!(openai.to_string(), "https://api.openai.com/v1/chat/completions");
}

#[test]
fn a_key_leaves_only_for_its_own_host() {
    let openai = provider("openai");
    for url in [
        "https://evil.example/v1/chat/completions",
        "http://api.openai.com/v1/chat/completions",
        "https://api.openai.com:8443/v1/chat/completions",
        "https://api.openai.com.evil.example/v1/chat/completions",
        "https://api.openai.com/other",
    ] {
        let error = sign(&openai, url.parse().unwrap(), HeaderMap::new(), KeyChoice::Key(0)).unwrap_err();
        assert_eq!(error.kind, Kind::Internal, "{url}");
    }
    let error = sign(
        &openai,
        openai.url(Operation::Chat, "m", false).unwrap(),
        HeaderMap::new(),
        KeyChoice::Resting(Duration::from_secs(1)),
    );
    assert_eq!(error.unwrap_err().kind, Kind::UpstreamAuth);
}

#[test]
fn only_listed_headers_travel() {
    let mut client = HeaderMap::new();
    for (name, value) in [
        ("authorization", "Bearer sk-pc-caller"),
        ("x-api-key", "sk-pc-caller"),
        ("cookie", "a=b"),
        ("connection", "keep-alive, x-thing"),
        ("x-thing", "1"),
        ("host", "evil.example"),
        ("x-forwarded-for", "1.2.3.4"),
        ("openai-organization", "org-other"),
        ("idempotency-key", "same"),
        ("anthropic-beta", "files-api-2025-04-14"),
        ("anthropic-version", "2026-10-21"),
        ("x-portcullis-mock", "status=500"),
        ("content-length", "3"),
    ] {
        client.insert(name, HeaderValue::from_static(value));
    }
    for name in catalog_names() {
        let provider = provider(name);
        for same_format in [false, true] {
            let url = provider.url(Operation::Chat, "m", true).unwrap();
            let headers = provider.headers(&client, same_format, true);
            let (_, _, sent) = sign(&provider, url, headers, KeyChoice::Key(0)).unwrap().into_parts();
            let mut allowed = vec!["content-type", "accept", "user-agent", "accept-encoding"];
            allowed.extend(["authorization", "x-api-key", "x-goog-api-key", "api-key"]);
            match (name, same_format) {
                ("anthropic" | "azure-anthropic" | "bedrock-mantle", true) => {
                    allowed.extend(["anthropic-version", "anthropic-beta"]);
                }
                ("vertex-anthropic", true) => allowed.push("anthropic-beta"),
                ("anthropic" | "azure-anthropic" | "bedrock-mantle", false) => allowed.push("anthropic-version"),
                ("mock", _) => allowed.push("x-portcullis-mock"),
                _ => {}
            }
            for (header, value) in &sent {
                assert!(allowed.contains(&header.as_str()), "{name}: {header}");
                assert!(!value.to_str().unwrap().contains("sk-pc-caller"), "{name}: the caller's own key travels");
            }
            let stream = crate::codec::framing::Framing::of(provider.format).accept();
            assert_eq!(sent["accept"] == stream, !provider.framed(), "{name}");
        }
    }
    let anthropic = provider("anthropic");
    assert_eq!(anthropic.headers(&client, true, false)["anthropic-version"], "2026-10-21");
    assert_eq!(anthropic.headers(&client, false, false)["anthropic-version"], "2023-06-01");
    client.insert("anthropic-version", HeaderValue::from_static("x; drop"));
    assert_eq!(anthropic.headers(&client, true, false)["anthropic-version"], "2023-06-01");
}

#[test]
fn a_stage_cannot_smuggle_credentials_or_framing_past_the_signature() {
    let openai = provider("openai");
    let url = openai.url(Operation::Chat, "m", false).unwrap();
    let mut headers = openai.headers(&HeaderMap::new(), true, false);
    for name in
        ["host", "authorization", "x-api-key", "transfer-encoding", "content-length", "accept-encoding", "cookie"]
    {
        headers.insert(name, HeaderValue::from_static("from-a-stage"));
    }
    headers.insert("x-mine", HeaderValue::from_static("kept"));
    let (_, _, sent) = sign(&openai, url, headers, KeyChoice::Key(0)).unwrap().into_parts();
    assert!(sent.values().all(|v| v != "from-a-stage"));
    assert_eq!(sent["x-mine"], "kept");
}

#[test]
fn configured_headers_are_fixed_and_never_credentials() {
    let with = |name: &str, value: &str| {
        let headers = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        Provider::resolve(Settings { headers, ..settings("openai") })
    };
    let provider = with("OpenAI-Organization", "org-1").unwrap();
    assert_eq!(provider.headers(&HeaderMap::new(), false, false)["openai-organization"], "org-1");
    for name in ["Authorization", "x-api-key", "Host", "Content-Length", "Connection", "Content-Type", "bad name"] {
        assert!(with(name, "x").is_err(), "{name}");
    }
    assert!(with("x-a", "line\nbreak").is_err());
}

#[test]
fn keys_show_in_no_debug_output() {
    let provider = provider("openai");
    let url = provider.url(Operation::Chat, "m", false).unwrap();
    let signed = sign(&provider, url, provider.headers(&HeaderMap::new(), true, false), KeyChoice::Key(0)).unwrap();
    for text in
        [format!("{provider:?}"), format!("{provider:#?}"), format!("{signed:?}"), format!("{:?}", KeyRests::default())]
    {
        assert!(!text.contains(SECRET) && !text.contains("very-secret"), "{text}");
    }
}

#[test]
fn a_provider_of_ones_own_needs_an_address_and_a_format() {
    let own = |base: Option<&str>, format, auth: Option<&str>, keys: Vec<Secret>| {
        Provider::resolve(Settings {
            name: "house".to_owned(),
            base_url: base.map(str::to_owned),
            format,
            auth: auth.map(str::to_owned),
            keys,
            ..Settings::default()
        })
    };
    let chat = Some(Format::OpenaiChat);
    assert!(own(Some("http://x/v1"), None, None, vec![]).unwrap_err().contains("format"));
    assert!(own(None, chat, None, vec![]).unwrap_err().contains("base_url"));
    assert!(own(Some("http://x/v1"), chat, Some("basic"), vec![]).unwrap_err().contains("bearer"));
    let open = own(Some("http://127.0.0.1:8000/v1/"), chat, None, vec![]).unwrap();
    assert_eq!((open.auth, open.private, open.ready()), (AuthScheme::None, true, true));
    assert_eq!(open.url(Operation::Chat, "m", false).unwrap().to_string(), "http://127.0.0.1:8000/v1/chat/completions");
    let claude = own(Some("https://x.example"), Some(Format::AnthropicMessages), None, vec![Secret::new("k")]).unwrap();
    assert_eq!((claude.auth, claude.private), (AuthScheme::XApiKey, false));
    assert_eq!(claude.url(Operation::Chat, "m", false).unwrap().to_string(), "https://x.example/messages");
}

#[test]
fn a_base_url_is_only_scheme_host_and_path() {
    for bad in [
        "",
        "api.openai.com/v1",
        "ftp://x/v1",
        "https://user:pw@x/v1",
        "https://x/v1?a=b",
        "https://x/v1#f",
        "https://",
    ] {
        assert!(Base::parse(bad).is_err(), "{bad}");
    }
    let six = Base::parse("http://[::1]:8000/v1").unwrap();
    assert_eq!((six.host(), six.port(), six.is_private()), ("::1", 8000, true));
    for (text, private) in [
        ("http://localhost:1/v1", true),
        ("http://10.0.0.1/v1", true),
        ("http://169.254.1.1/v1", true),
        ("http://[fd00::1]/v1", true),
        ("https://api.openai.com/v1", false),
        ("https://8.8.8.8/v1", false),
        ("https://localhost.example.com/v1", false),
    ] {
        assert_eq!(Base::parse(text).unwrap().is_private(), private, "{text}");
    }
}

#[test]
fn a_missing_key_is_said_and_a_bad_one_refused() {
    let none = Provider::resolve(Settings { name: "openai".to_owned(), ..Settings::default() }).unwrap();
    assert!(!none.ready());
    assert!(none.not_configured().message.contains("OPENAI_API_KEY"));
    let why = Some("environment variable OAI is not set".to_owned());
    let told = Provider::resolve(Settings { name: "openai".to_owned(), missing: why, ..Settings::default() }).unwrap();
    assert!(told.not_configured().message.contains("OAI is not set"));
    assert_eq!(told.not_configured().status(), 404);
    let ollama = Provider::resolve(Settings { name: "ollama".to_owned(), ..Settings::default() }).unwrap();
    assert!(ollama.ready() && ollama.auth == AuthScheme::None);
    for bad in ["", "with\nbreak"] {
        let error = Provider::resolve(Settings { keys: vec![Secret::new(bad)], ..settings("openai") }).unwrap_err();
        assert!(!error.contains("break"), "{error}");
    }
    let error = Provider::resolve(Settings { row: Some("opnai".to_owned()), ..settings("mine") }).unwrap_err();
    assert!(error.contains("\"openai\""), "{error}");
}

#[test]
fn models_meet_providers_in_one_dialect() {
    let anthropic = provider("anthropic");
    let facts = |m: &str| {
        let d = anthropic.dialect(m);
        (d.thinking_budget, d.no_sampling, d.mid_system, d.native_schema, d.default_max_tokens)
    };
    assert_eq!(facts("claude-sonnet-4-5-20250929"), (true, false, false, true, 64_000));
    assert_eq!(facts("claude-3-5-haiku-20241022"), (true, false, false, false, 8192));
    assert_eq!(facts("claude-opus-4-20250514"), (true, false, false, false, 32_000));
    assert_eq!(facts("claude-opus-4-7"), (false, true, false, true, 64_000));
    assert_eq!(facts("claude-opus-4-8"), (false, true, true, true, 64_000));
    assert_eq!(facts("claude-haiku-5-5"), (false, true, true, true, 64_000));
    assert_eq!(facts("anthropic/claude-sonnet-4.5"), (true, false, false, true, 64_000));
    let openai = provider("openai");
    assert!(openai.dialect("gpt-5-mini").refuses.contains(&"temperature"));
    assert!(openai.dialect("gpt-5-mini").refuses.contains(&"top_k"));
    assert!(!openai.dialect("gpt-5.5").refuses.contains(&"temperature"));
    assert!(!openai.dialect("gpt-4o").refuses.contains(&"temperature"));
    assert_eq!(provider("github").dialect("openai/gpt-5").max_tokens_field, "max_completion_tokens");
    assert_eq!(provider("github").dialect("openai/gpt-4.1").max_tokens_field, "max_tokens");
    assert!(provider("gemini").dialect("gemini-2.5-pro").json_schema);
    assert!(!provider("gemini").dialect("gemini-1.5-flash").json_schema);
    assert!(provider("deepseek").dialect("deepseek-chat").lacks.contains(&"images"));
    // Joined lists are kept once, however often they are asked for.
    let (a, b) = (openai.dialect("gpt-5-mini").refuses, openai.dialect("gpt-5-nano").refuses);
    assert!(std::ptr::eq(a, b));
}

#[test]
fn a_clouds_address_is_made_of_names_and_of_nothing_else() {
    let at = |row: &str, places: Places| {
        let provider = Provider::resolve(Settings { places, ..settings(row) })?;
        Ok::<_, String>(provider.url(Operation::Chat, "m", false).unwrap().to_string())
    };
    let vertex = |location: &str| {
        let places = Places { location: Some(location.to_owned()), project: Some("p".to_owned()), ..Places::default() };
        at("vertex-anthropic", places).unwrap()
    };
    for (location, host) in [
        ("global", "aiplatform.googleapis.com"),
        ("us", "aiplatform.us.rep.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
        ("europe-west1", "europe-west1-aiplatform.googleapis.com"),
    ] {
        let path = format!("v1/projects/p/locations/{location}/publishers/anthropic/models/m:rawPredict");
        assert_eq!(vertex(location), format!("https://{host}/{path}"));
    }
    // Even what slipped past the configuration's own check leads nowhere else.
    for name in ["evil.example/", "x@evil.example", "evil.example#", "evil.example?", "a:80", "..", "", "a b"] {
        let places = Places { region: Some(name.to_owned()), ..Places::default() };
        let url = at("bedrock-anthropic", places);
        assert!(
            url.as_ref().is_err() || url.as_ref().is_ok_and(|u| u.contains(".amazonaws.com/model/m/invoke")),
            "{url:?}"
        );
        assert!(!url.is_ok_and(|u| u.contains("evil.example/") || u.contains('@') || u.contains('#')), "{name}");
    }
    assert!(at("bedrock-anthropic", Places::default()).unwrap_err().contains("`region` is missing"));
    let stray = Places { project: Some("p".to_owned()), ..Places::default() };
    assert!(at("openai", stray).unwrap_err().contains("`project` means nothing"));
    let login = Some(config::Login::Google(config::GoogleLogin::default()));
    let error = Provider::resolve(Settings { login, keys: vec![], ..settings("openai") }).unwrap_err();
    assert!(error.contains("`google` means nothing"), "{error}");
}

#[test]
fn a_model_is_known_by_whatever_name_a_cloud_gives_it() {
    for (name, known) in [
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5-20250929-v1:0"),
        ("anthropic.claude-opus-4-8", "claude-opus-4-8"),
        ("global.anthropic.claude-opus-4.8", "claude-opus-4-8"),
        ("arn:aws:bedrock:us-east-1:1:inference-profile/eu.amazon.nova-pro-v1:0", "nova-pro-v1:0"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5@20250929"),
        ("meta/llama-4-maverick-17b-128e-instruct-maas", "llama-4-maverick-17b-128e-instruct-maas"),
        ("openai/gpt-4.1", "gpt-4.1"),
        ("gpt-5.1", "gpt-5.1"),
        ("us.custom", "custom"),
    ] {
        assert_eq!(capability::normal(name), known);
    }
    let nova = provider("bedrock-openai").capability("us.amazon.nova-micro-v1:0");
    assert!(nova.context == Some(128_000) && nova.lacks.contains(&"images"));
    // People's usual models, each on its own row, have their limits.
    for (row, models) in [
        ("openai", &["gpt-4o", "gpt-4.1-mini", "gpt-5", "gpt-5.5", "gpt-6-sol", "o3", "o4-mini", "gpt-audio"][..]),
        ("anthropic", &["claude-opus-5-5", "claude-sonnet-4-5", "claude-3-5-haiku-20241022"]),
        ("gemini", &["gemini-2.5-flash", "gemini-3.1-pro-preview", "gemini-4-argon"]),
        ("mistral", &["mistral-large-latest", "mistral-small-2603", "magistral-medium-latest", "codestral-2508"]),
        ("deepseek", &["deepseek-chat", "deepseek-reasoner", "deepseek-v4-pro"]),
        ("xai", &["grok-4", "grok-4.20-reasoning", "grok-code-fast-1"]),
        ("alibaba", &["qwen3-max", "qwen3.8-flash", "qwen-plus"]),
        ("cohere", &["command-a-03-2025", "command-r-08-2024"]),
        ("moonshot", &["kimi-k2.6", "kimi-k3"]),
        ("zai", &["glm-4.6", "glm-5.3"]),
        ("groq", &["llama-3.3-70b-versatile", "openai/gpt-oss-120b"]),
        ("vertex-openai", &["meta/llama-4-scout-17b-16e-instruct-maas"]),
        (
            "bedrock-openai",
            &["us.meta.llama4-maverick-17b-instruct-v1:0", "amazon.nova-2-lite-v1:0", "amazon.titan-text-express-v1"],
        ),
    ] {
        for model in models {
            let can = provider(row).capability(model);
            assert!(can.context.is_some() && can.output.is_some() || row == "xai", "{row}/{model}: {can:?}");
        }
    }
}

#[test]
fn keys_take_turns() {
    let (provider, rests, now) = (with_keys(3), KeyRests::default(), Instant::now());
    let mut seen = [0; 3];
    for _ in 0..30 {
        let KeyChoice::Key(at) = rests.pick(&provider, "m", &[], now) else { panic!("no key") };
        seen[at] += 1;
    }
    assert_eq!(seen, [10, 10, 10]);
}

#[test]
fn a_refused_key_rests_and_the_next_one_is_tried() {
    let (provider, rests, now) = (with_keys(2), KeyRests::default(), Instant::now());
    assert!(rests.refused(&provider, 0, "m", 401, None, now));
    for _ in 0..4 {
        assert_eq!(rests.pick(&provider, "any", &[], now), KeyChoice::Key(1));
    }
    assert_eq!(rests.pick(&provider, "m", &[1], now), KeyChoice::Refused(Duration::from_secs(600)));
    assert_eq!(rests.resting(&provider, now), 1);
    let later = now + Duration::from_secs(601);
    let both: HashSet<_> = (0..4).map(|_| format!("{:?}", rests.pick(&provider, "m", &[], later))).collect();
    assert_eq!(both.len(), 2);
}

#[test]
fn a_quota_rests_one_model_for_as_long_as_the_upstream_says() {
    let (provider, rests, now) = (with_keys(1), KeyRests::default(), Instant::now());
    assert!(!rests.refused(&provider, 0, "busy", 429, Some(Duration::from_secs(7)), now));
    assert_eq!(rests.pick(&provider, "busy", &[], now), KeyChoice::Resting(Duration::from_secs(7)));
    assert_eq!(rests.pick(&provider, "other", &[], now), KeyChoice::Key(0));
    rests.accepted(&provider, 0, "busy");
    assert_eq!(rests.pick(&provider, "busy", &[], now), KeyChoice::Key(0));
}

#[test]
fn one_callers_forbidden_prompt_puts_no_key_to_sleep() {
    let (provider, rests, now) = (with_keys(1), KeyRests::default(), Instant::now());
    rests.refused(&provider, 0, "m", 403, None, now);
    assert_eq!(rests.pick(&provider, "m", &[], now), KeyChoice::Key(0));
    let (two, rests) = (with_keys(2), KeyRests::default());
    rests.refused(&two, 0, "m", 403, None, now);
    assert_eq!(rests.pick(&two, "m", &[], now), KeyChoice::Key(1));
    for status in [400, 404, 500, 200] {
        assert!(!rests.refused(&two, 1, "m", status, None, now));
    }
    assert_eq!(rests.pick(&two, "m", &[], now), KeyChoice::Key(1));
}

#[test]
fn rest_follows_the_key_and_not_its_place() {
    let (rests, now) = (KeyRests::default(), Instant::now());
    rests.refused(&with_keys(2), 0, "m", 401, None, now);
    let swapped = Settings { keys: vec![Secret::new("key-1"), Secret::new("key-0")], ..settings("openai") };
    let swapped = Provider::resolve(swapped).unwrap();
    for _ in 0..3 {
        assert_eq!(rests.pick(&swapped, "m", &[], now), KeyChoice::Key(0));
    }
}

#[test]
fn made_up_models_do_not_fill_the_memory_of_rests() {
    let (provider, rests, now) = (with_keys(1), KeyRests::default(), Instant::now());
    for n in 0..20_000 {
        rests.refused(&provider, 0, &format!("m{n}"), 429, Some(Duration::from_secs(60)), now);
    }
    assert!(rests.len() <= 4096, "{}", rests.len());
}

#[test]
fn a_row_that_speaks_two_formats_serves_each_client_in_its_own() {
    let openai = provider("openai");
    let path = |format: Format, operation: Operation| {
        openai.url_for(openai.speaks(format), operation, "m", false).unwrap().path().to_owned()
    };
    assert_eq!(path(Format::OpenaiChat, Operation::Chat), "/v1/chat/completions");
    assert_eq!(path(Format::OpenaiResponses, Operation::Chat), "/v1/responses");
    assert_eq!(path(Format::OpenaiResponses, Operation::CountTokens), "/v1/responses/input_tokens");
    assert_eq!(path(Format::AnthropicMessages, Operation::Chat), "/v1/chat/completions");
    // Who names a format means that one.
    let named = Provider::resolve(config::Provider {
        name: "openai".to_owned(),
        format: Some(Format::OpenaiChat),
        ..config::Provider::default()
    })
    .unwrap();
    assert_eq!(named.speaks(Format::OpenaiResponses), Format::OpenaiChat);
}

#[test]
fn the_configuration_says_whose_streams_end_without_their_terminal() {
    let of = |name: &str, open_end: Option<bool>, format: Option<Format>| {
        let base_url = Some("https://house.example/v1".to_owned());
        let config =
            config::Provider { name: name.to_owned(), base_url, format, open_end, ..config::Provider::default() };
        Provider::resolve(config).map(|provider| provider.dialect("m").terminal_optional)
    };
    let chat = Some(Format::OpenaiChat);
    assert_eq!(of("house", None, chat), Ok(false));
    assert_eq!(of("house", Some(true), chat), Ok(true));
    assert_eq!((of("perplexity", None, None), of("perplexity", Some(false), None)), (Ok(true), Ok(false)));
    let refused = of("house", Some(true), Some(Format::AnthropicMessages)).expect_err("of no use there");
    assert!(refused.contains("open_end") && refused.contains("anthropic_messages"), "{refused}");
}

#[test]
fn a_family_that_neither_hears_nor_thinks_lacks_both_and_what_is_not_known_lacks_nothing() {
    let lacks = |model: &str, word: &str| capability::capability(model, Format::OpenaiChat).lacks.contains(&word);
    for (model, hears, thinks) in [
        ("claude-3-5-haiku-20241022", false, false),
        ("claude-sonnet-4-5", false, true),
        ("gpt-4.1-mini", false, false),
        ("gpt-4o-audio-preview", true, false),
        ("gpt-5", false, true),
        ("gemini-2.5-flash", true, true),
        ("gemini-2.0-flash", true, false),
        ("us.amazon.nova-lite-v1:0", false, false),
        ("us.amazon.nova-2-lite-v1:0", true, true),
        ("grok-3", false, false),
        ("grok-3-mini", false, true),
        ("sonar-deep-research", false, true),
        ("gemma-3n-e4b-it", true, true),
        ("nobody-knows-this-one", true, true),
    ] {
        assert_eq!((!lacks(model, "audio"), !lacks(model, "reasoning")), (hears, thinks), "{model}");
    }
}

#[test]
fn what_a_catalogue_file_says_of_a_model_completes_its_dialect() {
    let plain = provider("openai").dialect("zeta-1");
    let said = capability::completed(plain.clone(), &["reasoning"], &["sampling", "images"], Some(1_000));
    assert_eq!((said.default_max_tokens, said.no_sampling, said.reasons), (1_000, true, true));
    assert!(said.lacks.contains(&"images") && said.refuses.contains(&"temperature"));
    assert!(plain.refuses.iter().all(|knob| said.refuses.contains(knob)), "the provider's own stay");
    let unsaid = capability::completed(plain.clone(), &[], &[], None);
    assert_eq!(unsaid, plain);
}
