//! Before an attempt: media that the request names by URL and the target wants as bytes are fetched, once a request, and
//! stand in it as base64 from then on. Does nothing for a request without such media. Builds no call and spends nothing.

use std::{collections::HashMap, time::Instant};

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{
    codec::{Codec, Dialect, Field, codec, document::Document},
    config,
    error::{Error, Kind, Result},
    exchange::Exchange,
    model::{Media, MediaKind, MediaSource, Part},
    route::Target,
    server::{BodyMemory, BodyPermit},
    upstream::{FetchRules, Fetched, Fetcher},
};

/// May there be something to fetch? Reads no body.
pub fn may_lack(document: &Document, target: &Target) -> bool {
    let format = target.provider.speaks(document.format());
    document.has_media() && !(document.same_format(format, false) && target.dialect.media_urls)
}

/// Fetches what this target cannot take by URL. Errors are in the caller's hands and come before anything is reserved.
pub async fn bring(
    exchange: &mut Exchange,
    document: &mut Document,
    target: &Target,
    fetcher: &Fetcher,
    memory: &BodyMemory,
    settings: &config::Media,
) -> Result<()> {
    let codec = codec(target.provider.speaks(document.format()));
    let mut wanted: Vec<(Wanted, usize)> = Vec::new();
    for message in &document.request()?.messages {
        list(&message.parts, codec, &target.dialect, &mut wanted);
    }
    // What may not be fetched is refused by name when the call is written.
    if wanted.is_empty() || !settings.fetch {
        return Ok(());
    }
    if wanted.len() > MOST {
        let text = format!("the request names more than {MOST} media by URL; send some of them as base64");
        return Err(Error::new(Kind::InvalidRequest, text).with_code("too_many_media"));
    }
    let time = exchange.cx.left(settings.timeout, Instant::now()).min(settings.timeout);
    let fetched: Vec<((Wanted, usize), Fetched, BodyPermit)> = stream::iter(wanted)
        .map(|(want, uses)| async move {
            let mut share = memory.permit();
            let rules =
                FetchRules { allow: &settings.allow, max_bytes: settings.max_size, time, types: types(want.kind) };
            let fetched = fetcher.fetch(&want.url, rules, &mut |by| share.grow(by)).await?;
            Ok::<_, Error>(((want, uses), fetched, share))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let mut here = HashMap::with_capacity(fetched.len());
    for ((want, uses), fetched, share) in fetched {
        exchange.size.media_bytes += fetched.base64.len() as u64;
        exchange.fetched.push(share);
        here.insert(want, (fetched, uses));
    }
    exchange.cx.trace.note("media", &format!("{} fetched for {}", here.len(), target.name));
    for message in &mut document.edit(Field::Messages)?.messages {
        place(&mut message.parts, &mut here);
    }
    Ok(())
}

/// One thing to fetch; named twice it is fetched once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Wanted {
    kind: MediaKind,
    url: String,
}

fn list(parts: &[Part], codec: &dyn Codec, dialect: &Dialect, out: &mut Vec<(Wanted, usize)>) {
    for part in parts {
        match part {
            Part::ToolResult(result) => list(&result.parts, codec, dialect, out),
            Part::Media(Media { source: MediaSource::Parts(parts), .. }) => list(parts, codec, dialect, out),
            Part::Media(media) => {
                let MediaSource::Url(url) = &media.source else { continue };
                // What the model cannot see at all is refused by name, without a look.
                let lacks = dialect.lacks.contains(&feature(media.kind));
                let want = Wanted { kind: media.kind, url: url.clone() };
                if !is_web(url) || lacks || codec.takes_url(media, dialect) {
                    continue;
                }
                match out.iter_mut().find(|(known, _)| *known == want) {
                    Some((_, uses)) => *uses += 1,
                    None => out.push((want, 1)),
                }
            }
            _ => {}
        }
    }
}

fn place(parts: &mut [Part], here: &mut HashMap<Wanted, (Fetched, usize)>) {
    for part in parts {
        match part {
            Part::ToolResult(result) => place(&mut result.parts, here),
            Part::Media(Media { source: MediaSource::Parts(parts), .. }) => place(parts, here),
            Part::Media(media) => {
                let MediaSource::Url(url) = &media.source else { continue };
                let want = Wanted { kind: media.kind, url: url.clone() };
                let Some((fetched, uses)) = here.get_mut(&want) else { continue };
                *uses -= 1;
                media.mime = Some(fetched.mime.to_owned());
                // The last use takes it: there is one copy more than needed at no time.
                let last = *uses == 0;
                let bytes = if last { std::mem::take(&mut fetched.base64) } else { fetched.base64.clone() };
                media.source = MediaSource::Base64(bytes);
            }
            _ => {}
        }
    }
}

fn is_web(url: &str) -> bool {
    let begins = |with: &str| url.get(..with.len()).is_some_and(|head| head.eq_ignore_ascii_case(with));
    begins("https://") || begins("http://")
}

fn feature(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Image => "images",
        MediaKind::Document => "documents",
        MediaKind::Audio => "audio",
        MediaKind::Video => "video",
    }
}

fn types(kind: MediaKind) -> &'static [&'static str] {
    match kind {
        MediaKind::Image => &["image/"],
        MediaKind::Document => &["application/pdf", "text/plain"],
        MediaKind::Audio => &["audio/"],
        MediaKind::Video => &["video/"],
    }
}

/// By one request, and of these at a time.
const MOST: usize = 20;
const AT_ONCE: usize = 4;
