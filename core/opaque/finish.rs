//! What a whole answer needs before it goes out: ids sealed and remembered, a ranking in the shape that callers know. Lists that
//! are answered here, and the last word on a body that cannot be sent again.

use std::time::SystemTime;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    Answers,
    answer::Through,
    batches::Ended,
    claims::Claims,
    ids,
    objects::{Objects, Page},
    param,
};
use crate::{
    auth::Principal,
    codec::opaque as bodies,
    error::{Error, Kind, Result},
    model::Operation,
    route::Target,
    seal::{Seals, Tenant, Thing},
};

/// Where it is written down what is whose.
pub struct Books<'a> {
    pub seals: &'a Seals,
    pub objects: &'a Objects,
    pub claims: &'a Claims,
    /// What the id that was asked for is sealed with, where that is more than its provider.
    pub home: Option<&'a str>,
}

/// The fields of an answer, for whoever must change them.
pub(super) fn fields(body: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(body)
        .map_err(|e| Error::new(Kind::Upstream, "the upstream answered with something that is not JSON").because(e))
}

/// A list of what the caller's tenant has.
pub async fn listed(
    objects: &Objects,
    operation: Operation,
    principal: &Principal,
    query: Option<&str>,
) -> Result<Bytes> {
    let thing = if operation == Operation::ListBatches { Thing::Batch } else { Thing::File };
    let page = Page {
        after: param(query, "after"),
        limit: param(query, "limit"),
        order: param(query, "order"),
        purpose: param(query, "purpose"),
    };
    objects.list(thing, Tenant::of(principal), page).await.map(Bytes::from)
}

/// What a whole answer needs before it goes out: ids sealed and remembered, a ranking in the shape that callers know.
pub async fn finish(
    through: &mut Through,
    answers: Answers,
    operation: Operation,
    principal: &Principal,
    target: &Target,
    books: Books<'_>,
) -> Result<()> {
    let Books { seals, objects, claims, home } = books;
    match answers {
        Answers::Through => {}
        Answers::Ranking if target.provider.lists() => {
            let body = through.body();
            through.replace(bodies::from_list(&body)?.into());
        }
        Answers::Ranking => {}
        Answers::Ids(thing) => {
            let mut answer = fields(&through.body())?;
            let tenant = Tenant::of(principal);
            ids::seal(seals, thing, tenant, home.unwrap_or(&target.provider.name), &mut answer)?;
            through.batch = match thing {
                Thing::Batch => Ended::of(&answer),
                Thing::Response => Ended::of_response(&answer),
                Thing::File | Thing::Conversation | Thing::Item => None,
            };
            let id = answer.get("id").and_then(Value::as_str).unwrap_or_default();
            let kept = match operation {
                operation if operation.is_of_response() => Ok(()),
                Operation::DeleteFile => objects.forget(thing, tenant, id).await,
                _ => objects.keep(thing, tenant, &answer).await,
            };
            if operation == Operation::CreateBatch
                && let Err(error) = claims.opened(principal, id, SystemTime::now()).await
            {
                tracing::warn!(%error, "a batch will be charged only when its owner asks for it");
            }
            // The thing is there all the same, and its id works.
            if let Err(error) = kept {
                tracing::warn!(%error, "the list of files and batches lacks a change");
            }
            through.replace(Value::Object(answer).to_string().into());
        }
    }
    Ok(())
}

/// A request that streamed cannot be sent again.
pub fn final_word(mut error: Error) -> Error {
    if error.retryable() {
        error.message.push_str("; the request's body streamed and is gone, so no other try was made: send it again");
    }
    error
}
