//! `aws`, `google` and `entra` of a provider as written.

use schemars::JsonSchema;
use serde::Deserialize;

/// Keys of AWS, or the role of the place where the gateway runs. An empty table looks where AWS's own tools look: at the
/// variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, at the profile that AWS_PROFILE names or the default one, at a
/// cluster's web identity, at the container's credentials, at the instance's role. SSO and programs that print keys are refused.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Aws {
    /// `env:NAME` or `file:PATH`.
    pub access_key_id: Option<String>,
    /// `env:NAME` or `file:PATH`.
    pub secret_access_key: Option<String>,
    /// For temporary keys: `env:NAME` or `file:PATH`.
    pub session_token: Option<String>,
    /// A profile of AWS's own files (`~/.aws/config`, `~/.aws/credentials`).
    pub profile: Option<String>,
    /// The role to take on: with the token in `token_file`, or with the keys given here or found.
    pub role_arn: Option<String>,
    /// What the owner of the role asks for besides.
    pub external_id: Option<String>,
    /// A cluster's token, read again whenever keys are asked for.
    pub token_file: Option<String>,
    /// What the session is called in AWS's logs. Default: portcullis.
    pub session_name: Option<String>,
    /// Another address to ask for keys: of STS, of the container's or of the instance's service.
    pub token_url: Option<String>,
}

/// Google's credentials. An empty table looks where Google's own tools look: at the file that GOOGLE_APPLICATION_CREDENTIALS
/// names, then at the machine's own account.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Google {
    /// `file:PATH` or `env:NAME` of the JSON that Google's tools write: a service account's key, workload identity
    /// federation, a person's login.
    pub credentials: Option<String>,
    /// Another address to ask for tokens. Default: what the credentials say, on googleapis.com.
    pub token_url: Option<String>,
}

/// An application of Microsoft Entra. An empty table looks at the variables AZURE_TENANT_ID, AZURE_CLIENT_ID,
/// AZURE_CLIENT_SECRET and AZURE_FEDERATED_TOKEN_FILE, then at the machine's managed identity.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entra {
    /// The directory's id or domain.
    pub tenant: Option<String>,
    /// The application's id.
    pub client_id: Option<String>,
    /// `env:NAME` or `file:PATH`.
    pub client_secret: Option<String>,
    /// Workload identity: a cluster's token, read again whenever a token is asked for.
    pub token_file: Option<String>,
    /// What the token is for. Default: the provider's own.
    pub scope: Option<String>,
    /// Another address to ask for tokens. Default: login.microsoftonline.com.
    pub token_url: Option<String>,
}
