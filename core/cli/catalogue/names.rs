//! Whose a model is, in the words of each collection, and the rows of this program's catalogue that it holds for.

use crate::provider::{capability::normal, catalog_names};

/// The rows at which a collection's provider and model are sold. Empty: it has none here.
pub fn rows(provider: &str, model: &str) -> Vec<&'static str> {
    let claude = model.contains("claude");
    let names: &[&str] = match provider {
        "bedrock" | "bedrock_converse" | "amazon-bedrock" | "aws" | "bedrock_mantle" if claude => {
            &["bedrock", "bedrock-anthropic", "bedrock-mantle"]
        }
        "bedrock" | "bedrock_converse" | "amazon-bedrock" | "aws" | "bedrock_mantle" => &["bedrock", "bedrock-openai"],
        "azure" if claude => &["azure-anthropic"],
        "azure" => &["azure", "azure-legacy"],
        "azure_ai" if claude => &["azure-anthropic"],
        "azure_ai" => &["azure"],
        "google-vertex-anthropic" => &["vertex-anthropic"],
        vertex if vertex.starts_with("vertex_ai") || vertex == "google-vertex" => match claude {
            true => &["vertex-anthropic"],
            false if model.contains("gemini") || model.contains("embedding") => &["vertex", "vertex-openai"],
            false => &["vertex-openai"],
        },
        "google" => &["gemini"],
        "text-completion-openai" => &["openai"],
        "together_ai" | "togetherai" => &["together"],
        "fireworks_ai" | "fireworks-ai" => &["fireworks"],
        "nvidia_nim" => &["nvidia"],
        "github-models" => &["github"],
        "x-ai" => &["xai"],
        "moonshotai" => &["moonshot"],
        "zhipuai" => &["zai"],
        "dashscope" => &["alibaba"],
        "cohere_chat" => &["cohere"],
        "voyageai" => &["voyage"],
        same => return catalog_names().into_iter().filter(|name| *name == same).collect(),
    };
    catalog_names().into_iter().filter(|name| names.contains(name)).collect()
}

/// As this program's tables write it.
pub fn model(name: &str) -> Option<String> {
    let name = normal(name.trim());
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:@+".contains(c);
    (!name.is_empty() && name.len() <= 200 && name.chars().all(plain)).then_some(name)
}
