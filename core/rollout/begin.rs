//! Which version runs when the gateway starts: the files', unless another one was pinned, or theirs was taken back or was
//! still being tried. Decides; `deploy` does the rest.

use std::sync::Arc;

use super::{Held, Standing};
use crate::{
    config::{Content, Place},
    plugin::Plugins,
    provider,
    runtime::Runtime,
    script::Scripts,
    secrets::Secrets,
    versions::{By, Cause, Pin, Row, State, Versions, id},
};

/// What to start with.
pub struct Begun {
    pub runtime: Runtime,
    pub standing: Standing,
    /// The files' version, which is to be tried once more: its number and what it is.
    pub resumes: Option<(u64, Arc<Runtime>)>,
    /// For the start's one screen.
    pub warnings: Vec<String>,
}

/// What the history says about the files.
#[derive(Debug, PartialEq)]
enum Choice {
    /// They run; a version is new unless it is this one.
    Files(Option<u64>),
    /// A pinned version runs.
    Pinned(u64),
    /// What ran before runs: theirs was taken back, or was being tried.
    Before { runs: u64, tried: Box<Row> },
}

/// The error is a sentence: nothing can be started.
pub async fn begin(
    place: &Place,
    (files, content): (Runtime, Content),
    (scripts, plugins): (&Scripts, &Plugins),
    versions: &Versions,
    secrets: &Secrets,
) -> Result<Begun, String> {
    let hash = files.config.version.clone();
    let pin = versions.pin();
    let choice = choose(&hash, versions.last().as_ref(), versions.live().as_ref(), pin.as_ref());
    let mut warnings = Vec::new();
    let runs = match &choice {
        Choice::Files(_) => None,
        Choice::Pinned(number) => {
            let kept = kept(place, *number, versions, secrets, (scripts, plugins)).await.map_err(|why| {
                format!(
                    "{} is pinned and cannot run: {why}. Mend that, or release the pin and start with the files: \
                     portcullis versions unpin",
                    id(*number)
                )
            })?;
            Some((*number, kept))
        }
        Choice::Before { runs, tried } => match kept(place, *runs, versions, secrets, (scripts, plugins)).await {
            Ok(kept) => Some((*runs, kept)),
            Err(why) => {
                warnings.push(format!(
                    "the files are {}, which was {}; {} ran before and cannot run any more ({why}), so the files run",
                    id(tried.number),
                    told(tried.state),
                    id(*runs)
                ));
                None
            }
        },
    };
    let Some((number, runtime)) = runs else {
        if let Some(pin) = pin {
            warnings.push(format!("{} was pinned: the files have changed since, so they run", id(pin.version)));
            versions.set_pin(None).await;
        }
        let number = match choice {
            Choice::Files(Some(number)) => number,
            Choice::Files(None) | Choice::Pinned(_) | Choice::Before { .. } => {
                let by = By { cause: Cause::Start, ..By::default() };
                let row = versions.add(&content, by, State::Live).await;
                versions.went_live(row.number).await;
                row.number
            }
        };
        let standing = Standing { version: number, hash: hash.clone(), files: hash, pin: None, held: None };
        return Ok(Begun { runtime: files, standing, resumes: None, warnings });
    };
    let mut standing =
        Standing { version: number, hash: runtime.config.version.clone(), files: hash.clone(), pin, held: None };
    let mut resumes = None;
    if let Choice::Before { tried, .. } = choice {
        standing.pin = None;
        match tried.state {
            State::Shadow | State::Canary => resumes = Some((tried.number, Arc::new(files))),
            _ => {
                let reason = tried.reason.clone().unwrap_or_default();
                let at = tried.ended.clone().unwrap_or_default();
                standing.held = Some(Held { number: tried.number, hash, reason, at });
            }
        }
    }
    warnings.extend(standing.why(None, None));
    if let Some((tried, _)) = &resumes {
        warnings.push(format!(
            "the files are {}, which is tried again from the start; {} runs",
            id(*tried),
            id(number)
        ));
    }
    Ok(Begun { runtime, standing, resumes, warnings })
}

fn choose(files: &str, last: Option<&Row>, live: Option<&Row>, pin: Option<&Pin>) -> Choice {
    if let Some(pin) = pin.filter(|pin| pin.files == files) {
        return Choice::Pinned(pin.version);
    }
    let Some(live) = live else { return Choice::Files(None) };
    if live.hash == files {
        return Choice::Files(Some(live.number));
    }
    match last.filter(|last| last.hash == files) {
        Some(tried) if matches!(tried.state, State::Shadow | State::Canary | State::Reverted | State::Aborted) => {
            Choice::Before { runs: live.number, tried: Box::new(tried.clone()) }
        }
        _ => Choice::Files(None),
    }
}

fn told(state: State) -> &'static str {
    match state {
        State::Shadow | State::Canary => "being tried",
        _ => "taken back",
    }
}

/// A version as it was kept, built anew. The error is half a sentence.
async fn kept(
    place: &Place,
    number: u64,
    versions: &Versions,
    secrets: &Secrets,
    (scripts, plugins): (&Scripts, &Plugins),
) -> Result<Runtime, String> {
    let row = versions.row(number).ok_or("it is not in the history any more")?;
    let content = versions.content(&row).map_err(|error| error.message.clone())?;
    let loaded = secrets.load(place, Some(&content), &provider::catalog_names()).await;
    Runtime::of(loaded, scripts, plugins).map_err(|refused| {
        let problems: Vec<String> =
            refused.problems.iter().map(|p| format!("{}:{}: {}", p.file, p.line, p.message)).collect();
        problems.join("; ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u64, hash: &str, state: State) -> Row {
        Row { hash: hash.to_owned(), ..Row::new(number, By::default(), state, None) }
    }

    fn pin(version: u64, files: &str) -> Pin {
        Pin { version, files: files.to_owned(), since: String::new(), author: None, note: None }
    }

    #[test]
    fn the_files_run_unless_the_history_says_otherwise() {
        let live = row(3, "a", State::Live);
        assert_eq!(choose("a", None, None, None), Choice::Files(None));
        assert_eq!(choose("a", Some(&live), Some(&live), None), Choice::Files(Some(3)));
        assert_eq!(choose("b", Some(&live), Some(&live), None), Choice::Files(None));
    }

    #[test]
    fn a_pin_holds_for_as_long_as_the_files_are_those_it_was_set_over() {
        let live = row(3, "a", State::Live);
        assert_eq!(choose("b", Some(&live), Some(&live), Some(&pin(3, "b"))), Choice::Pinned(3));
        assert_eq!(choose("c", Some(&live), Some(&live), Some(&pin(3, "b"))), Choice::Files(None));
        assert_eq!(choose("a", Some(&live), Some(&live), Some(&pin(3, "b"))), Choice::Files(Some(3)));
    }

    #[test]
    fn a_restart_is_no_way_around_a_rollout() {
        let live = row(3, "a", State::Live);
        for state in [State::Shadow, State::Canary, State::Reverted, State::Aborted] {
            let tried = row(4, "b", state);
            let expected = Choice::Before { runs: 3, tried: Box::new(tried.clone()) };
            assert_eq!(choose("b", Some(&tried), Some(&live), None), expected);
            // Other files are another matter.
            assert_eq!(choose("c", Some(&tried), Some(&live), None), Choice::Files(None));
        }
        let former = row(4, "b", State::Superseded);
        assert_eq!(choose("b", Some(&former), Some(&live), None), Choice::Files(None));
    }
}
