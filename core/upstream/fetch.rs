//! Media that a request names by URL, fetched where a provider wants the bytes. The way out is the guarded one: every
//! address checked, exactly the checked one dialled, no redirect followed, no proxy in between that would resolve the name
//! again, nothing of the caller sent along. Bytes become base64 as they arrive, so that there is one copy.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tokio::time::timeout;

use super::{Client, Egress, Frames, Outgoing, SendLimits};
use crate::error::{Error, Kind, Result};

/// Fetches from anywhere on the open internet. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Fetcher {
    /// Without proxies: whoever resolves the name must be whoever checks it.
    client: Client,
    /// In a rehearsal: nothing is fetched.
    nowhere: bool,
}

/// What may be fetched, and how much of it.
#[derive(Debug, Clone, Copy)]
pub struct FetchRules<'a> {
    /// Hosts that may live on private addresses.
    pub allow: &'a [String],
    pub max_bytes: u64,
    /// For all of it.
    pub time: Duration,
    /// Types that are wanted, by their names or beginnings (`image/`).
    pub types: &'a [&'a str],
}

#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// Standard-alphabet base64.
    pub base64: String,
    pub mime: &'static str,
}

impl Fetcher {
    /// Refuses every URL.
    pub fn nowhere() -> Fetcher {
        Fetcher { nowhere: true, ..Fetcher::default() }
    }

    /// Errors are the caller's: they name the URL's host and what is wrong, never its path. `grow` is asked before more is
    /// kept.
    pub async fn fetch(
        &self,
        url: &str,
        rules: FetchRules<'_>,
        grow: &mut (dyn FnMut(u64) -> Result<()> + Send),
    ) -> Result<Fetched> {
        let (uri, host) = parse(url)?;
        if self.nowhere {
            return Err(refused(&host, "nothing is fetched in a rehearsal: give the media as base64"));
        }
        let fetched = timeout(rules.time, self.run(uri, &host, rules, grow)).await;
        fetched
            .unwrap_or_else(|_| Err(refused(&host, &format!("it took longer than {:.1} s", rules.time.as_secs_f64()))))
    }

    async fn run(
        &self,
        url: Uri,
        host: &str,
        rules: FetchRules<'_>,
        grow: &mut (dyn FnMut(u64) -> Result<()> + Send),
    ) -> Result<Fetched> {
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let private = rules.allow.iter().any(|allowed| allowed.eq_ignore_ascii_case(&bare));
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
        let out = Outgoing {
            method: Method::GET,
            url,
            headers,
            body: Frames::from(Vec::new()),
            egress: Egress { private, metadata: false, hosts: Some(Arc::new([bare])) },
            trust: None,
            http2: Some(false),
        };
        let limits = SendLimits { connect: rules.time.min(CONNECT) };
        let incoming = self.client.send(out, &limits).await.map_err(|error| unreached(host, error))?;
        if incoming.status.is_redirection() {
            return Err(refused(host, "it redirects, which is not followed; name the place it leads to"));
        }
        if incoming.status != StatusCode::OK {
            return Err(refused(host, &format!("it answered {}", incoming.status.as_u16())));
        }
        let told = |name: header::HeaderName| incoming.headers.get(name).and_then(|v| v.to_str().ok());
        if told(header::CONTENT_ENCODING).is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
            return Err(refused(host, "it is sent compressed"));
        }
        let length = told(header::CONTENT_LENGTH).and_then(|n| n.parse::<u64>().ok());
        if length.is_some_and(|n| n > rules.max_bytes) {
            return Err(too_large(host, rules.max_bytes));
        }
        let text = told(header::CONTENT_TYPE).is_some_and(says_text);
        let mut body = incoming.body;
        let mut taken = Taken::default();
        let mut kept = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| unreached(host, error))?;
            taken.bytes += frame.len() as u64;
            if taken.bytes > rules.max_bytes {
                return Err(too_large(host, rules.max_bytes));
            }
            let needs = taken.bytes.div_ceil(3) * 4;
            grow(needs - kept)?;
            kept = needs;
            taken.push(&frame);
            // What is not wanted is not read to its end.
            if taken.mime.is_none() && taken.head.len() >= HEAD {
                taken.judge(host, text, rules.types)?;
            }
        }
        if taken.mime.is_none() {
            taken.judge(host, text, rules.types)?;
        }
        taken.finish(host)
    }
}

/// What has arrived.
#[derive(Default)]
struct Taken {
    /// The first bytes, for the type.
    head: Vec<u8>,
    base64: String,
    /// One or two bytes that no base64 digit could be made of yet.
    rest: Vec<u8>,
    bytes: u64,
    mime: Option<&'static str>,
    /// Of text, up to here: the bytes of a letter that is not whole yet.
    letter: Vec<u8>,
    broken_text: bool,
}

impl Taken {
    fn push(&mut self, frame: &[u8]) {
        let room = HEAD.saturating_sub(self.head.len());
        self.head.extend_from_slice(&frame[..frame.len().min(room)]);
        self.check_text(frame);
        let mut frame = frame;
        if !self.rest.is_empty() {
            let more = frame.len().min(3 - self.rest.len());
            self.rest.extend_from_slice(&frame[..more]);
            frame = &frame[more..];
            if self.rest.len() < 3 {
                return;
            }
            BASE64_STANDARD.encode_string(&self.rest, &mut self.base64);
            self.rest.clear();
        }
        let whole = frame.len() - frame.len() % 3;
        BASE64_STANDARD.encode_string(&frame[..whole], &mut self.base64);
        self.rest.extend_from_slice(&frame[whole..]);
    }

    /// Text is text to its end, however it was cut.
    fn check_text(&mut self, frame: &[u8]) {
        if self.broken_text || self.mime.is_some_and(|mime| mime != TEXT) {
            return;
        }
        self.broken_text |= frame.contains(&0);
        self.letter.extend_from_slice(frame);
        match std::str::from_utf8(&self.letter) {
            Ok(_) => self.letter.clear(),
            Err(e) if e.error_len().is_some() => self.broken_text = true,
            Err(e) => drop(self.letter.drain(..e.valid_up_to())),
        }
    }

    fn judge(&mut self, host: &str, text: bool, types: &[&str]) -> Result<()> {
        let mime = sniff(&self.head).or((text && !self.broken_text).then_some(TEXT));
        let wanted = mime.filter(|mime| types.iter().any(|t| mime.starts_with(t)));
        match (wanted, mime) {
            (Some(mime), _) => self.mime = Some(mime),
            (None, Some(mime)) => return Err(refused(host, &format!("what it sends is {mime}"))),
            (None, None) => return Err(refused(host, "what it sends is of no type that can be passed on")),
        }
        Ok(())
    }

    fn finish(mut self, host: &str) -> Result<Fetched> {
        let Some(mime) = self.mime else { return Err(refused(host, "it sends nothing")) };
        if mime == TEXT && (self.broken_text || !self.letter.is_empty()) {
            return Err(refused(host, "what it sends is not UTF-8 text"));
        }
        BASE64_STANDARD.encode_string(&self.rest, &mut self.base64);
        Ok(Fetched { base64: self.base64, mime })
    }
}

/// The URL as it can be asked for, and its host for messages.
fn parse(url: &str) -> Result<(Uri, String)> {
    let wrong = |why: &str| Error::new(Kind::InvalidRequest, format!("a media URL {why}")).with_code(CODE);
    if url.len() > LONGEST {
        return Err(wrong("is longer than 8 KiB"));
    }
    let uri: Uri = url.parse().map_err(|_| wrong("is not a URL"))?;
    let authority = uri.authority().cloned().filter(|a| !a.host().is_empty());
    let (Some(authority), Some("http" | "https")) = (authority, uri.scheme_str()) else {
        return Err(wrong("must begin with https:// or http:// and name a host"));
    };
    if authority.as_str().contains('@') {
        return Err(wrong("must not hold a user's name or password"));
    }
    Ok((uri, authority.host().to_owned()))
}

/// The type that the first bytes tell.
fn sniff(head: &[u8]) -> Option<&'static str> {
    let at = |from: usize, what: &[u8]| head.get(from..from + what.len()) == Some(what);
    if at(0, b"RIFF") {
        return if at(8, b"WEBP") { Some("image/webp") } else { at(8, b"WAVE").then_some("audio/wav") };
    }
    if at(4, b"ftyp") {
        return Some(if at(8, b"M4A") { "audio/mp4" } else { "video/mp4" });
    }
    MAGIC.iter().find(|(magic, _)| at(0, magic)).map(|(_, mime)| *mime)
}

/// Does a content type say that this is text? What is written for browsers is not what anybody meant.
fn says_text(content_type: &str) -> bool {
    let mime = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let structured = ["application/json", "application/xml", "application/yaml", "application/toml"];
    (mime.starts_with("text/") && mime != "text/html") || structured.contains(&mime.as_str())
}

fn refused(host: &str, why: &str) -> Error {
    Error::new(Kind::InvalidRequest, format!("the media at {host} cannot be fetched: {why}")).with_code(CODE)
}

fn too_large(host: &str, most: u64) -> Error {
    refused(host, &format!("it has more than the {} KiB that are allowed", most >> 10)).with_status(413)
}

fn unreached(host: &str, error: Error) -> Error {
    if error.code() == "egress_refused" {
        return refused(host, "it is not on the open internet; its host would have to stand in media.allow")
            .with_code("media_not_allowed");
    }
    refused(host, "it cannot be reached, or broke off").because(error)
}

const AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));
const CODE: &str = "media_unavailable";
const TEXT: &str = "text/plain";
const CONNECT: Duration = Duration::from_secs(5);
const LONGEST: usize = 8 << 10;
/// Enough for every type below.
const HEAD: usize = 16;
const MAGIC: [(&[u8], &str); 11] = [
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"\xff\xf3", "audio/mpeg"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"\x1aE\xdf\xa3", "video/webm"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_same_however_the_bytes_were_cut() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for cut in [1, 2, 3, 4, 7, 16, 999, 1000] {
            let mut taken = Taken { mime: Some("image/png"), ..Taken::default() };
            bytes.chunks(cut).for_each(|chunk| taken.push(chunk));
            let fetched = taken.finish("h").expect("whole");
            assert_eq!(fetched.base64, BASE64_STANDARD.encode(&bytes), "{cut}");
        }
    }

    #[test]
    fn text_is_text_however_its_letters_were_cut() {
        for (bytes, whole) in
            [("grün ✓".as_bytes(), true), (&"✓".as_bytes()[..2], false), (b"a\0b", false), (b"\xff", false)]
        {
            for cut in 1..4 {
                let mut taken = Taken { mime: Some(TEXT), ..Taken::default() };
                bytes.chunks(cut).for_each(|chunk| taken.push(chunk));
                assert_eq!(taken.finish("h").is_ok(), whole, "{bytes:?} {cut}");
            }
        }
    }

    #[test]
    fn types_are_told_by_their_first_bytes() {
        for (head, mime) in [
            (&b"\x89PNG\r\n\x1a\n...."[..], Some("image/png")),
            (b"RIFF\0\0\0\0WEBPVP8 ", Some("image/webp")),
            (b"RIFF\0\0\0\0WAVEfmt ", Some("audio/wav")),
            (b"RIFF\0\0\0\0AVI ", None),
            (b"\0\0\0\x18ftypmp42", Some("video/mp4")),
            (b"<!doctype html>", None),
            (b"", None),
        ] {
            assert_eq!(sniff(head), mime);
        }
        assert!(says_text("text/plain; charset=utf-8") && says_text("application/json"));
        assert!(!says_text("text/html") && !says_text("image/png"));
    }

    #[test]
    fn only_plain_web_addresses_are_asked() {
        for (url, says) in [
            ("ftp://h/x", "must begin with"),
            ("file:///etc/passwd", "is not a URL"),
            ("/x", "must begin with"),
            ("https://user:pass@h/x", "must not hold"),
            ("https://", "is not a URL"),
            ("not a url", "is not a URL"),
        ] {
            let error = parse(url).expect_err(url);
            assert!(error.message.contains(says), "{url}: {}", error.message);
            assert!(!error.message.contains("pass@") && !error.message.contains("/etc"), "{}", error.message);
        }
        assert!(parse(&format!("https://h/{}", "x".repeat(9000))).is_err());
        assert_eq!(parse("https://cdn.example/a.png?sig=1").map(|(_, host)| host).ok().as_deref(), Some("cdn.example"));
    }
}
