//! Providers as other gateways name them, as tables of gateway.toml. A key is a reference to the environment here, whatever it
//! was there.

use super::draft::{plain_name, quoted};
use crate::provider::{catalog_names, row};

/// A provider with its key: `[providers.…]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Upstream {
    /// A row of the provider catalogue, or an own server of OpenAI's format.
    pub row: Option<&'static str>,
    pub base_url: Option<String>,
    /// The variable that holds the key.
    pub env: Option<String>,
    /// Keys that are told as they are: `region`, `project`, `location`, `resource`, `api_version`.
    pub places: Vec<(&'static str, String)>,
    /// `aws` or `google`, and the variables in it.
    pub login: Option<(&'static str, Vec<(&'static str, String)>)>,
}

impl Upstream {
    pub fn lines(&self, name: &str) -> Vec<String> {
        let mut out = Vec::new();
        match self.row {
            Some(row) if row == name => {}
            Some(row) => out.push(format!("row = {}", quoted(row))),
            None => out.push("format = \"openai_chat\"".to_owned()),
        }
        out.extend(self.base_url.as_ref().map(|url| format!("base_url = {}", quoted(url))));
        match (&self.env, &self.login, self.row) {
            (_, Some((login, variables)), _) => {
                let all: Vec<String> = variables.iter().map(|(key, env)| format!("{key} = \"env:{env}\"")).collect();
                out.push(format!("{login} = {{ {} }}", all.join(", ")).replace("{  }", "{}"));
            }
            (Some(env), None, _) => out.push(format!("key = \"env:{env}\"")),
            (None, None, Some(_)) if self.base_url.is_none() => {}
            (None, None, _) => out.push("auth = \"none\"".to_owned()),
        }
        out.extend(self.places.iter().map(|(key, value)| format!("{key} = {}", quoted(value))));
        out
    }
}

/// The catalogue's row behind another gateway's word for a provider. `model`: some are sold under one word in two ways.
pub fn row_of(word: &str, model: &str) -> Option<&'static str> {
    let claude = model.contains("claude");
    let name = match word {
        "together_ai" | "together-ai" => "together",
        "fireworks_ai" | "fireworks-ai" => "fireworks",
        "vertex_ai" | "vertex-ai" if claude => "vertex-anthropic",
        "vertex_ai" | "vertex-ai" => "vertex",
        "google" | "google-ai" => "gemini",
        "bedrock" | "aws-bedrock" if claude => "bedrock-anthropic",
        "bedrock" | "aws-bedrock" if catalog_names().contains(&"bedrock") => "bedrock",
        "bedrock" | "aws-bedrock" => "bedrock-openai",
        "azure" | "azure-openai" | "azure_ai" if claude => "azure-anthropic",
        "azure-openai" | "azure_ai" => "azure",
        "mistral-ai" | "mistralai" => "mistral",
        "x-ai" => "xai",
        "perplexity-ai" => "perplexity",
        "nvidia_nim" => "nvidia",
        "dashscope" => "alibaba",
        "cohere_chat" => "cohere",
        "ollama_chat" => "ollama",
        "hosted_vllm" => "vllm",
        "lm_studio" => "lmstudio",
        "text-completion-openai" => "openai",
        same => same,
    };
    row(name).map(|row| row.name)
}

/// Where that row's key is usually found.
pub fn usual_env(name: &str) -> Option<&'static str> {
    row(name).and_then(|row| row.env)
}

/// May it be asked without a base URL?
pub fn knows_its_place(name: &str) -> bool {
    row(name).is_some_and(|row| row.base_url.is_some())
}

/// A variable's name for a secret that stood in the file.
pub fn env_for(name: &str, taken: &[&str]) -> String {
    let plain: String = plain_name(name)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    let base = format!("{plain}_API_KEY");
    let numbered = (2..).map(|n| format!("{base}_{n}"));
    std::iter::once(base.clone()).chain(numbered).find(|name| !taken.contains(&name.as_str())).unwrap_or(base)
}

/// A URL that may stand in gateway.toml: plain, without a user, a query or a key in it.
pub fn plain_url(url: &str) -> Option<String> {
    let url = url.trim().trim_end_matches('/');
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let plain = !rest.is_empty() && !rest.contains(['@', '?', '#', ' ', '"', '{', '\\']) && rest.is_ascii();
    plain.then(|| url.to_owned())
}

/// A variable's name as gateway.toml may write it.
pub fn plain_env(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
