use http::HeaderValue;

use super::*;
use crate::{
    config::{GoogleLogin, Login, Places, Provider as Settings},
    provider::sign::Identity,
};

fn vertex() -> Arc<Provider> {
    let name = |text: &str| Some(text.to_owned());
    let settings = Settings {
        name: "vertex".to_owned(),
        login: Some(Login::Google(GoogleLogin::default())),
        places: Places { project: name("acme"), location: name("global"), ..Places::default() },
        ..Settings::default()
    };
    Arc::new(Provider::resolve(settings).unwrap())
}

/// A kept token of this age, with so much time left.
fn keep(tokens: &Tokens, provider: &Provider, age: Duration, left: Duration) {
    let now = Instant::now();
    let identity = Identity::Header(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer t"));
    let granted = Granted { identity, lifetime: age + left };
    let since = now.checked_sub(age).unwrap();
    let kept = Kept { granted, since, renew: now + left, until: now + left };
    let slot: Arc<Slot> = Arc::default();
    slot.current.store(Some(Arc::new(kept)));
    tokens.slots.insert(provider.source.as_ref().unwrap().print(), slot);
}

#[test]
fn a_token_that_is_refused_is_forgotten_unless_it_is_new() {
    let (tokens, provider) = (Tokens::new(Client::default()), vertex());
    assert!(!tokens.refused(&provider), "there is none");
    keep(&tokens, &provider, Duration::from_secs(5), Duration::from_secs(600));
    assert!(!tokens.refused(&provider), "a new one would be refused too");
    keep(&tokens, &provider, Duration::from_secs(61), Duration::from_secs(600));
    assert!(tokens.refused(&provider));
    assert!(!tokens.refused(&provider), "only once");
}

#[tokio::test]
async fn a_valid_token_is_given_without_a_call() {
    let (tokens, provider) = (Tokens::new(Client::default()), vertex());
    keep(&tokens, &provider, Duration::from_secs(1), Duration::from_secs(600));
    assert!(tokens.of(&provider).await.unwrap().is_some());
    let keyed = Settings { name: "openai".to_owned(), ..Settings::default() };
    assert!(tokens.of(&Arc::new(Provider::resolve(keyed).unwrap())).await.unwrap().is_none());
    assert_eq!(tokens.slots.len(), 1, "a provider with keys has no slot");
}
