//! The facts that an explained request's trace holds, as JSON. Rare: nobody else's row has them.

use super::{list, maybe, millis, name, null, number, text, usd};
use crate::account::Mark;
use crate::context::{Allowance, Funds, Reserve, Share, Weighed};
use crate::context::{Allowance, Funds, Rank, Reserve, Share, Weighed};

pub(super) fn allowance(of: &Allowance, out: &mut Vec<u8>) {
    let Allowance { scope, name: whose, shares, concurrent, shadow, refuses } = of;
    out.extend_from_slice(b"{\"scope\":");
    text(scope, out);
    name("name", out);
    text(whose, out);
    for (key, Share { limit, left, full_after }) in shares {
        name(key, out);
        out.extend_from_slice(b"{\"limit\":");
        number(*limit, out);
        name("left", out);
        count(*left, out);
        name("full_after_ms", out);
        span(*full_after, out);
        out.push(b'}');
    }
    if let Some((most, under_way)) = concurrent {
        name("concurrent", out);
        out.extend_from_slice(b"{\"limit\":");
        number(*most, out);
        name("in_flight", out);
        count(*under_way, out);
        out.push(b'}');
    }
    if *shadow {
        name("shadow", out);
        out.extend_from_slice(b"true");
    }
    if refuses.is_some() {
        name("refuses", out);
        maybe(refuses.as_deref(), out);
    }
    out.push(b'}');
}

/// Which arm it was given to, and for a copy: of what.
pub(super) fn mark(of: &Mark, out: &mut Vec<u8>) {
    let Mark { model, arm, copy_of } = of;
    out.extend_from_slice(b"{\"model\":");
    text(model, out);
    name("arm", out);
    text(arm, out);
    if copy_of.is_some() {
        name("mirror_of", out);
        maybe(copy_of.as_deref(), out);
    }
    out.push(b'}');
}

pub(super) fn funds(of: &Funds, out: &mut Vec<u8>) {
    let Funds { scope, name: whose, nano_usd, per, spent, reserved, left, resets } = of;
    name("scope", out);
    text(scope, out);
    name("name", out);
    text(whose, out);
    name("per", out);
    text(per, out);
    for (key, nano) in
        [("usd", Some(*nano_usd)), ("spent_usd", *spent), ("reserved_usd", *reserved), ("left_usd", *left)]
    {
        name(key, out);
        money(nano, out);
    }
    name("resets", out);
    let at = resets.and_then(|at| jiff::Timestamp::try_from(at).ok()).map(|at| format!("{at:.0}"));
    maybe(at.as_deref(), out);
}

pub(super) fn rank(Rank { target, strategy, why }: &Rank, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"target\":");
    text(target, out);
    name("strategy", out);
    text(strategy, out);
    name("why", out);
    text(why, out);
    out.push(b'}');
}

pub(super) fn weighed(of: &Weighed, out: &mut Vec<u8>) {
    let Weighed {
        target,
        weight,
        circuit,
        retry_in,
        latency,
        in_flight,
        keys,
        keys_resting,
        price_input,
        price_output,
        context_window,
        capabilities,
    } = of;
    name("target", out);
    text(target, out);
    if *weight != 1 {
        name("weight", out);
        number(u64::from(*weight), out);
    }
    name("circuit", out);
    text(circuit, out);
    if retry_in.is_some() {
        name("retry_in_ms", out);
        span(*retry_in, out);
    }
    name("latency_ms", out);
    span(*latency, out);
    name("in_flight", out);
    number(*in_flight, out);
    name("keys", out);
    number(*keys as u64, out);
    name("keys_resting", out);
    number(*keys_resting as u64, out);
    for (key, price) in [("price_input", price_input), ("price_output", price_output)] {
        name(key, out);
        match price.filter(|price| price.is_finite()) {
            Some(price) => out.extend_from_slice(price.to_string().as_bytes()),
            None => null(out),
        }
    }
    name("context_window", out);
    count(*context_window, out);
    name("capabilities", out);
    list(capabilities, out, |word, out| text(word, out));
}

pub(super) fn reserve(of: &Reserve, out: &mut Vec<u8>) {
    let Reserve { target, input_tokens, output_tokens, nano_usd, max_tokens } = of;
    name("target", out);
    text(target, out);
    name("input_tokens", out);
    number(*input_tokens, out);
    name("output_tokens", out);
    number(*output_tokens, out);
    name("usd", out);
    money(*nano_usd, out);
    if max_tokens.is_some() {
        name("max_tokens", out);
        count(*max_tokens, out);
    }
}

fn count(value: Option<u64>, out: &mut Vec<u8>) {
    match value {
        Some(value) => number(value, out),
        None => null(out),
    }
}

fn span(value: Option<std::time::Duration>, out: &mut Vec<u8>) {
    match value {
        Some(value) => millis(value, out),
        None => null(out),
    }
}

fn money(nano: Option<u64>, out: &mut Vec<u8>) {
    usd(nano.map(|nano| i64::try_from(nano).unwrap_or(i64::MAX)), out);
}
