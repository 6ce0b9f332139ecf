//! What lies ahead of a request before and beside its attempts: the lines in which it would wait, at the gateway and at targets that
//! are full, and whether another target would be asked beside the first. Reads how things stand now; takes no place.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::World;
use crate::{
    codec::document::Document,
    config::After,
    context::Context,
    gateway,
    queue::{Ahead, Standing},
    route::Target,
};

/// At the gateway itself, before anything is done.
pub(super) fn at_gateway(world: &World<'_>, cx: &mut Context) {
    let Some(queues) = world.queues else { return };
    if let Some(ahead) = queues.front.ahead(&gateway::owner(cx)) {
        let text = format!("would wait for its turn at the gateway: {}", line(world, queues.front.standing(), ahead));
        cx.trace.note("queue", &text);
    }
}

/// At targets, and beside them. `hedges`: what the request asks for can be asked twice.
pub fn ahead(world: &World<'_>, cx: &mut Context, document: &mut Document, targets: &[Arc<Target>], hedges: bool) {
    let now = Instant::now();
    let fit = |target: &&Arc<Target>| world.health.is_healthy(&target.name, now) && world.health.outlook(target).open;
    let fit: Vec<&Arc<Target>> = targets.iter().filter(fit).collect();
    let first = at_targets(world, cx, &fit);
    if let Some(first) = first.filter(|_| hedges) {
        beside(world, cx, document, first, targets);
    }
}

/// Who would be asked first: the next one with room, or whoever has room first.
fn at_targets<'a>(world: &World<'_>, cx: &mut Context, targets: &[&'a Arc<Target>]) -> Option<&'a Arc<Target>> {
    let Some(queues) = world.queues else { return targets.first().copied() };
    let owner = gateway::owner(cx);
    let mut full = Vec::new();
    let room =
        targets.iter().find(|target| match target.concurrency.and_then(|_| queues.ahead(&target.name, &owner)) {
            Some((standing, ahead)) => {
                full.push(format!("{} ({})", target.name, line(world, standing, ahead)));
                false
            }
            None => true,
        });
    if !full.is_empty() {
        let full = full.join(", ");
        let text = match room {
            Some(target) => format!("no place is free at {full}: {} is asked instead", target.name),
            None => format!("would wait for the first free place at {full}"),
        };
        cx.trace.note("queue", &text);
    }
    room.or(targets.first()).copied()
}

/// How a line stands for somebody who comes now.
fn line(world: &World<'_>, standing: Standing, Ahead { turns, time }: Ahead) -> String {
    let Standing { limit, taken, waiting, .. } = standing;
    let overload = &world.config.overload;
    let mut text = format!("{taken} of {limit} places are taken, {turns} turns come first");
    if let Some(time) = time {
        text.push_str(&format!(", which takes about {} ms", time.as_millis()));
    }
    if waiting >= overload.queue {
        text.push_str(", and its queue is full");
    } else if time.is_some_and(|time| time > overload.wait) {
        text.push_str(&format!(", and nobody waits longer than {} ms", overload.wait.as_millis()));
    }
    text
}

/// Whether, when and who.
fn beside(world: &World<'_>, cx: &mut Context, document: &mut Document, first: &Arc<Target>, targets: &[Arc<Target>]) {
    let Some(hedge) = first.care.as_ref().and_then(|care| care.hedge) else { return };
    let behind = targets.iter().position(|target| target.name == first.name).map_or(0, |at| at + 1);
    let (rest, rules, now) = (&targets[behind..], &world.config.rules, Instant::now());
    let name = &first.name;
    if let Some(why) = gateway::alone(rules, cx.operation, document, first, rest) {
        return cx.trace.note("hedge", &format!("nobody would be asked beside {name}: {why}"));
    }
    let room = |target: &Target| {
        let places = target.concurrency.and_then(|_| world.queues?.standing(&target.name));
        places.is_none_or(|places| places.taken < places.limit && places.waiting == 0)
    };
    let may = |target: &&Arc<Target>| {
        !rules.providers.contains_key(&*target.provider.name)
            && world.health.is_healthy(&target.name, now)
            && world.health.outlook(target).open
            && room(target)
    };
    let others: Vec<&str> = rest.iter().filter(may).take(hedge.max as usize).map(|target| &*target.name).collect();
    let after = match hedge.after {
        After::Time(time) => Ok(millis(time)),
        After::Percentile(percent) => match world.waits {
            None => Ok(format!("the time in which {percent} of 100 of its answers begin")),
            Some(waits) => waits
                .percentile(name, document.stream(), percent)
                .map(|time| format!("{}, in which {percent} of 100 of its answers begin", millis(time)))
                .ok_or("how long it usually takes is not known yet"),
        },
    };
    let text = match after {
        _ if others.is_empty() => format!("nobody would be asked beside {name}: no other target is well and has room"),
        Err(why) => format!("nobody would be asked beside {name}: {why}"),
        Ok(after) => format!("{} would be asked too if {name} gives no output within {after}", others.join(", then ")),
    };
    cx.trace.note("hedge", &text);
}

fn millis(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
