//! Media types as several wires need them: what the first bytes tell, seen through their base64; documents that are text.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};

use crate::model::{Media, MediaSource};

/// The type of base64 data, by how it begins.
pub fn sniffed(data: &str) -> Option<&'static str> {
    if data.starts_with(ZIP) {
        return office(data);
    }
    HEADS.iter().find(|(head, _)| data.starts_with(head)).map(|(_, mime)| *mime)
}

/// Office's documents are archives: what is in them tells which. The list of an archive's files is at its end.
fn office(data: &str) -> Option<&'static str> {
    let data = data.trim_end_matches('=');
    let (head, tail) = (data.len().min(LOOKED_AT), data.len().saturating_sub(LOOKED_AT) / 4 * 4);
    let piece = |text: &str| LENIENT.decode(&text[..text.len() / 4 * 4]).unwrap_or_default();
    let (head, tail) = (piece(data.get(..head)?), piece(data.get(tail..)?));
    let has = |name: &str| [&head, &tail].iter().any(|piece| memchr::memmem::find(piece, name.as_bytes()).is_some());
    OFFICE.iter().find(|(name, _)| has(name)).map(|(_, mime)| *mime)
}

/// Of bytes that came without a type: by the file's name, else by how they begin.
pub fn of(name: Option<&str>, data: &str) -> Option<String> {
    name.and_then(by_name).or_else(|| sniffed(data)).map(str::to_owned)
}

/// The usual type of files with this ending.
fn by_name(name: &str) -> Option<&'static str> {
    let (_, ending) = name.rsplit_once('.')?;
    let ending = ending.to_ascii_lowercase();
    ENDINGS.iter().find(|(known, _)| *known == ending).map(|(_, mime)| *mime)
}

/// The ending that files of this type usually have.
pub fn ending(mime: &str) -> Option<&'static str> {
    ENDINGS.iter().find(|(_, known)| *known == mime).map(|(ending, _)| *ending)
}

/// The bare type: no parameters, in the usual spelling; `application/octet-stream` says nothing.
pub fn bare(mime: &str) -> Option<&str> {
    let bare = mime.split(';').next().unwrap_or(mime).trim();
    match bare {
        "" | "application/octet-stream" => None,
        "image/jpg" => Some("image/jpeg"),
        "audio/mp3" => Some("audio/mpeg"),
        bare => Some(bare),
    }
}

/// The words of a document, where they are plain text.
pub fn text_of(media: &Media) -> Option<String> {
    match &media.source {
        MediaSource::Text(text) => Some(text.clone()),
        MediaSource::Base64(data) => {
            let mime = media.mime.as_deref().and_then(bare)?;
            let text = mime.starts_with("text/") || TEXTS.contains(&mime);
            String::from_utf8(BASE64_STANDARD.decode(data).ok().filter(|_| text)?).ok()
        }
        _ => None,
    }
}

/// Plain text under other names.
const TEXTS: [&str; 5] =
    ["application/json", "application/xml", "application/yaml", "application/x-yaml", "application/toml"];

const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
const PPTX: &str = "application/vnd.openxmlformats-officedocument.presentationml.presentation";
/// A folder that only such a document has.
const OFFICE: [(&str, &str); 3] = [("word/", DOCX), ("xl/", XLSX), ("ppt/", PPTX)];
/// How every archive begins.
const ZIP: &str = "UEsDB";
/// Characters at each end of an archive: whole groups of four.
const LOOKED_AT: usize = 16 << 10;
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Endings of files, the usual one of a type first.
const ENDINGS: [(&str, &str); 18] = [
    ("pdf", "application/pdf"),
    ("txt", "text/plain"),
    ("md", "text/markdown"),
    ("csv", "text/csv"),
    ("html", "text/html"),
    ("htm", "text/html"),
    ("json", "application/json"),
    ("xml", "application/xml"),
    ("doc", "application/msword"),
    ("xls", "application/vnd.ms-excel"),
    ("ppt", "application/vnd.ms-powerpoint"),
    ("docx", DOCX),
    ("xlsx", XLSX),
    ("pptx", PPTX),
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("gif", "image/gif"),
];

const HEADS: [(&str, &str); 6] = [
    ("JVBERi0", "application/pdf"),
    ("iVBORw0KGgo", "image/png"),
    ("/9j/", "image/jpeg"),
    ("R0lGOD", "image/gif"),
    ("UklGR", "image/webp"),
    ("SUQz", "audio/mpeg"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_known_by_what_is_in_it() {
        let archive = |name: &str| {
            // The list of files, at the end: behind more than is looked at.
            let mut bytes = b"PK\x03\x04\x14\0\0\0_rels/.rels".to_vec();
            bytes.resize(50_001, 0);
            bytes.extend_from_slice(format!("PK\x01\x02{name}PK\x05\x06").as_bytes());
            BASE64_STANDARD.encode(bytes)
        };
        assert_eq!(sniffed(&archive("word/document.xml")), Some(DOCX));
        assert_eq!(sniffed(&archive("xl/workbook.xml")), Some(XLSX));
        assert_eq!(sniffed(&archive("readme.md")), None);
        assert_eq!(sniffed("UEsDB"), None);
        assert_eq!(of(Some("a.PPTX"), "AAAA").as_deref(), Some(PPTX));
        assert_eq!(of(Some("a.bin"), "JVBERi0xLjc=").as_deref(), Some("application/pdf"));
        assert_eq!((ending(DOCX), ending("image/jpeg"), ending("x/y")), (Some("docx"), Some("jpg"), None));
    }
}
