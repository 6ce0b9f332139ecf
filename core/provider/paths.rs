//! Where an operation lies at a provider: the path behind its `base_url`, by format, and by row where a vendor differs.
//! Knows no host; a model's name becomes one encoded segment.

use http::Uri;

use super::{Provider, hosted, url};
use crate::{
    error::{Error, Result},
    model::{Format, Operation},
};

impl Provider {
    /// Begins with a slash.
    pub(super) fn path(&self, format: Format, operation: Operation, model: &str, stream: bool) -> Result<String> {
        let own = &self.row.paths;
        let first = format == self.row.format;
        let template = match operation {
            Operation::Chat if stream => own.stream.or(own.chat),
            Operation::Chat => own.chat,
            Operation::Embeddings => own.embeddings,
            Operation::CountTokens => own.count_tokens,
            _ => None,
        };
        if let Some(template) = template.filter(|path| first && path.contains('{')) {
            let counted = operation == Operation::CountTokens && self.framed();
            return self.filled(template, if counted { hosted::bare(model) } else { model });
        }
        match format {
            Format::OpenaiChat => self.openai_path(operation, model),
            Format::OpenaiResponses if operation == Operation::Chat => {
                let first = self.row.paths.chat.filter(|_| self.row.format == format);
                Ok(self.row.paths.responses.or(first).unwrap_or("/responses").to_owned())
            }
            Format::OpenaiResponses if operation == Operation::CountTokens => {
                let first = self.row.paths.chat.filter(|_| self.row.format == format);
                Ok(format!("{}/input_tokens", self.row.paths.responses.or(first).unwrap_or("/responses")))
            }
            Format::OpenaiResponses if operation == Operation::Compact => {
                let first = self.row.paths.chat.filter(|_| self.row.format == format);
                Ok(format!("{}/compact", self.row.paths.responses.or(first).unwrap_or("/responses")))
            }
            Format::OpenaiResponses => self.openai_path(operation, model),
            Format::AnthropicMessages => self.anthropic_path(operation, model),
            Format::Gemini => gemini_path(operation, model, stream),
            Format::BedrockConverse => self.bedrock_path(operation, model, stream),
            Format::Cohere => self.cohere_path(operation),
            Format::Ollama => self.ollama_path(operation),
        }
    }

    /// Where legacy completions lie. Only for models that `completes` says yes to.
    pub fn completions(&self, model: &str) -> Result<Uri> {
        url::check_model(model)?;
        self.base.join(self.row.paths.completions.unwrap_or("/completions"))
    }

    /// Where a chat lies that goes on with a begun answer; `None`: where all chats do.
    pub fn prefill(&self) -> Option<Result<Uri>> {
        self.row.paths.prefill.map(|path| self.base.join(path))
    }

    /// A row's own path with the model's name and the API's version in it.
    fn filled(&self, template: &str, model: &str) -> Result<String> {
        let version = self.api_version.as_deref().unwrap_or_default();
        Ok(template.replace("{api_version}", version).replace("{model}", &url::segment(model)?))
    }

    fn bedrock_path(&self, operation: Operation, model: &str, stream: bool) -> Result<String> {
        let bare = url::segment(hosted::bare(model))?;
        let model = url::segment(model)?;
        Ok(match operation {
            Operation::Chat if stream => format!("/model/{model}/converse-stream"),
            Operation::Chat => format!("/model/{model}/converse"),
            Operation::CountTokens => format!("/model/{bare}/count-tokens"),
            // Each maker's own body.
            Operation::Embeddings => format!("/model/{model}/invoke"),
            _ => return Err(self.lacks(operation)),
        })
    }

    fn cohere_path(&self, operation: Operation) -> Result<String> {
        Ok(match operation {
            Operation::Chat => self.row.paths.chat.unwrap_or("/chat").to_owned(),
            Operation::Embeddings => self.row.paths.embeddings.unwrap_or("/embed").to_owned(),
            _ => return Err(self.lacks(operation)),
        })
    }

    fn ollama_path(&self, operation: Operation) -> Result<String> {
        Ok(match operation {
            Operation::Chat => self.row.paths.chat.unwrap_or("/chat").to_owned(),
            Operation::Embeddings => self.row.paths.embeddings.unwrap_or("/embed").to_owned(),
            Operation::ListModels => "/tags".to_owned(),
            _ => return Err(self.lacks(operation)),
        })
    }

    fn openai_path(&self, operation: Operation, model: &str) -> Result<String> {
        let paths = &self.row.paths;
        Ok(match operation {
            Operation::Chat => paths.chat.unwrap_or("/chat/completions").to_owned(),
            Operation::Embeddings if self.row.quirks.lacks.contains(&"embeddings") => {
                return Err(self.lacks(operation));
            }
            Operation::Embeddings => paths.embeddings.unwrap_or("/embeddings").to_owned(),
            Operation::ListModels => paths.models.unwrap_or("/models").to_owned(),
            Operation::OneModel => format!("{}/{}", paths.models.unwrap_or("/models"), url::segment(model)?),
            _ => return Err(self.lacks(operation)),
        })
    }

    fn anthropic_path(&self, operation: Operation, model: &str) -> Result<String> {
        Ok(match operation {
            Operation::Chat => self.row.paths.chat.unwrap_or("/messages").to_owned(),
            Operation::CountTokens => self.row.paths.count_tokens.unwrap_or("/messages/count_tokens").to_owned(),
            Operation::ListModels => "/models".to_owned(),
            Operation::OneModel => format!("/models/{}", url::segment(model)?),
            _ => return Err(self.lacks(operation)),
        })
    }
}

fn gemini_path(operation: Operation, model: &str, stream: bool) -> Result<String> {
    let model = url::segment(model.strip_prefix("models/").unwrap_or(model))?;
    Ok(match operation {
        Operation::Chat if stream => format!("/models/{model}:streamGenerateContent?alt=sse"),
        Operation::Chat => format!("/models/{model}:generateContent"),
        Operation::Embeddings => format!("/models/{model}:batchEmbedContents"),
        Operation::CountTokens => format!("/models/{model}:countTokens"),
        Operation::ListModels => "/models".to_owned(),
        Operation::OneModel => format!("/models/{model}"),
        _ => {
            return Err(Error::unsupported(operation.name(), "this provider has no such endpoint; choose another one"));
        }
    })
}
