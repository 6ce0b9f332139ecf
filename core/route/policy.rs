//! The data policies that bind a caller, over each target that its plans may hold: asked where plans are made, so that neither a
//! stage nor a failover leads around them. Chooses nothing.

use super::{Passed, Target};
use crate::{
    auth::Principal,
    config::Handling,
    error::{Error, Kind, Result},
    provider::Transport,
};

/// Does a target promise what the caller's scopes demand about data? What runs in this process sends it nowhere.
pub fn lawful(target: &Target, caller: Option<&Principal>) -> Result<()> {
    let Some(caller) = caller.filter(|caller| !caller.terms.is_empty()) else { return Ok(()) };
    if target.provider.transport == Transport::Mock && target.handling == Handling::default() {
        return Ok(());
    }
    for (bound, policy) in caller.data() {
        let Some(why) = policy.broken_by(&target.handling) else { continue };
        let (name, kind, whose, words) = (&target.name, bound.scope.kind(), &bound.name, policy.words());
        let message = format!(
            "`{name}` does not satisfy the data policy of {kind} `{whose}` ({words}): {why}; ask for a model that does; whoever \
             runs this gateway can state what it promises (`region`, `retention`, `train`)"
        );
        return Err(Error::new(Kind::Forbidden, message).with_code(DATA_POLICY).at("model"));
    }
    Ok(())
}

impl Passed {
    pub fn new(name: &str, why: &Error) -> Passed {
        let code = if why.code() == DATA_POLICY { DATA_POLICY } else { "not_configured" };
        Passed { name: name.into(), code, reason: why.message.as_str().into() }
    }
}

/// The code of a target that may not be used with this caller's data.
pub const DATA_POLICY: &str = "data_policy";
