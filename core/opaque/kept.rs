//! Things that live at an upstream already: a file, a batch, an answer that is made in the background. Where one lives is in its id,
//! which opens for its tenant alone; whoever may see the end of something that costs money is told so.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;

use super::{
    Answers, House, Opaque, Opened, Payload, Place,
    batches::{Owed, Tally},
    of_provider,
};
use crate::{
    auth::Principal,
    codec::opaque::Asked,
    endpoint::Found,
    error::{Error, Kind, Result},
    model::Operation,
    seal::{Tenant, Thing},
};

/// A file or a batch that is there already: where it lives is in its id.
pub async fn kept(found: &Found, principal: &Arc<Principal>, house: &House<'_>) -> Result<Opened> {
    let thing = match found.operation {
        Operation::OneBatch | Operation::CancelBatch => Thing::Batch,
        operation if operation.is_of_response() => Thing::Response,
        _ => Thing::File,
    };
    let id = found.id.as_deref().unwrap_or_default();
    let opened = house.seals.open(thing, Tenant::of(principal), id)?;
    // An answer's says which model makes it.
    let (provider, model) = match opened.target.split_once('/') {
        Some((provider, model)) => (provider, Some(model)),
        None => (opened.target.as_str(), None),
    };
    if found.operation == Operation::DeleteResponse
        && house.claims.is_under_way(Tenant::of(principal), id).await.unwrap_or(true)
    {
        let text = "this answer is not known to be over: cancel it, or ask for it until it is, and then delete it";
        return Err(Error::new(Kind::InvalidRequest, text).with_code("response_in_progress"));
    }
    let owed = match found.operation {
        Operation::OneBatch | Operation::CancelBatch => owed(provider, principal, None, house),
        Operation::OneResponse | Operation::CancelResponse => {
            let owed = owed(provider, principal, None, house);
            owed.map(|owed| Box::new(Owed { model: model.map(str::to_owned), ..*owed }))
        }
        Operation::FileContent => {
            // Where the store cannot tell, the file is passed all the same: whoever looks at the batch next will see.
            let batch = house.claims.of_output(Tenant::of(principal), id).await.ok().flatten();
            batch.and_then(|batch| owed(provider, principal, Some((batch, id.to_owned())), house))
        }
        _ => None,
    };
    let method = match found.operation {
        Operation::DeleteFile | Operation::DeleteResponse => Method::DELETE,
        Operation::CancelBatch | Operation::CancelResponse => Method::POST,
        _ => Method::GET,
    };
    let answers = match found.operation {
        Operation::FileContent | Operation::ResponseItems => Answers::Through,
        _ => Answers::Ids(thing),
    };
    let document = of_provider(found.operation, provider, Bytes::from_static(b"{}"))?;
    let home = model.map(|_| opened.target.as_str().into());
    let (place, body) = (Place::Usual { id: Some(opened.id) }, Payload::None);
    let opaque =
        Opaque { method, answers, asked: Asked::default(), upgrade: None, owed, home, client: None, place, body };
    Ok(Opened { document, opaque, held: None, format: found.format })
}

fn owed(
    provider: &str,
    principal: &Arc<Principal>,
    output: Option<(String, String)>,
    house: &House<'_>,
) -> Option<Box<Owed>> {
    Some(Box::new(Owed {
        claims: house.claims.clone(),
        prices: house.routes.prices(),
        provider: house.routes.provider(provider)?.clone(),
        principal: principal.clone(),
        model: None,
        output,
        tally: Tally::default(),
    }))
}
