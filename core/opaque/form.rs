//! A form on its way through: its fields up to the first file are read, the rest goes on as it comes. Only the model's name and
//! what stages changed is written anew; every other byte is the client's own.

use std::{
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use http_body::{Body, Frame};
use serde_json::{Map, Value};

use crate::{
    codec::form::{Scanner, Seen, boundary},
    error::{Error, Kind, Result},
    server::{BodyMemory, BodyPermit, Incoming, Upload},
    upstream::Flow,
};

/// What was read of it, and the rest.
pub struct Form {
    pub content_type: HeaderValue,
    /// As JSON, for stages: a name that stands several times is a list.
    pub fields: Map<String, Value>,
    head: Bytes,
    places: Vec<Place>,
    /// `None`: the head is all of it.
    rest: Option<Flow>,
    /// The head's share of the memory.
    _held: BodyPermit,
}

/// A field's content in the head.
struct Place {
    name: String,
    content: Range<usize>,
    /// With its delimiter.
    part: usize,
}

impl Form {
    /// Reads up to the first file. The model may stand behind it, as far as `LOOK_AHEAD` reaches; `wants_model`: somebody must
    /// know it, and `named` says that the caller named it elsewhere.
    pub async fn read(
        mut upload: Upload<Incoming>,
        content_type: &str,
        wants_model: bool,
        memory: &BodyMemory,
    ) -> Result<Form> {
        let boundary = boundary(content_type)?;
        let mut reading = Reading::new(&boundary, memory.permit());
        while !(reading.closed || reading.file && (reading.has_model() || !wants_model)) {
            let Some(piece) = upload.piece().await.transpose()? else {
                reading.closed = true;
                reading.scanner.finish()?;
                break;
            };
            reading.take(&piece)?;
        }
        let Reading { scanner, head, places, held, .. } = reading;
        let head = head.freeze();
        let fields = fields(&places, &head)?;
        let length = upload.length();
        let model = places.iter().any(|p| p.name == MODEL);
        let content_type = HeaderValue::try_from(format!("multipart/form-data; boundary=\"{boundary}\""))
            .map_err(|_| Error::invalid("content-type", "its boundary cannot be passed on"))?;
        let all = scanner.finish().is_ok() && length == Some(0);
        let rest = (!all).then(|| Flow::new(Rest { upload, scanner, model, last: None, ended: false }, length));
        Ok(Form { content_type, fields, head, places, rest, _held: held })
    }

    pub fn flow(&self) -> Option<&Flow> {
        self.rest.as_ref()
    }

    /// The head as it goes on: the model's name as the target knows it, fields as stages left them.
    pub fn pieces(&self, model: &str, edited: Option<&Map<String, Value>>) -> Vec<Bytes> {
        let mut out = Vec::with_capacity(3);
        let mut from = 0;
        for place in &self.places {
            let now = &self.head[place.content.clone()];
            let fresh = if place.name == MODEL {
                Some(model)
            } else {
                edited.and_then(|e| e.get(&place.name)).and_then(Value::as_str)
            };
            if let Some(fresh) = fresh.filter(|f| f.as_bytes() != now) {
                out.push(self.head.slice(from..place.content.start));
                out.push(Bytes::copy_from_slice(fresh.as_bytes()));
                from = place.content.end;
            }
        }
        out.push(self.head.slice(from..));
        out
    }

    /// Takes a field out, because it is for the gateway alone.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let at = self.places.iter().position(|p| p.name == name)?;
        let Place { content, part, .. } = self.places.remove(at);
        let value = String::from_utf8_lossy(&self.head[content.clone()]).trim().to_owned();
        let cut = content.end - part;
        let mut head = BytesMut::with_capacity(self.head.len() - cut);
        head.extend_from_slice(&self.head[..part]);
        head.extend_from_slice(&self.head[content.end..]);
        // The first delimiter has no line before it.
        if part == 0 {
            head = head.split_off(2.min(head.len()));
        }
        self.head = head.freeze();
        let cut = if part == 0 { cut + 2 } else { cut };
        for place in self.places.iter_mut().filter(|p| p.part >= part) {
            place.content = place.content.start - cut..place.content.end - cut;
            place.part = place.part.saturating_sub(cut);
        }
        self.fields.remove(name);
        Some(value)
    }
}

struct Reading {
    scanner: Scanner,
    head: BytesMut,
    places: Vec<Place>,
    held: BodyPermit,
    /// The part under way, when it is a field: its name, where its part and its content begin.
    open: Option<(String, usize, usize)>,
    file: bool,
    closed: bool,
}

impl Reading {
    fn new(boundary: &str, held: BodyPermit) -> Reading {
        let scanner = Scanner::new(boundary);
        Reading { scanner, head: BytesMut::new(), places: Vec::new(), held, open: None, file: false, closed: false }
    }

    fn has_model(&self) -> bool {
        self.places.iter().any(|p| p.name == MODEL)
    }

    fn take(&mut self, piece: &Bytes) -> Result<()> {
        if self.head.len() + piece.len() > LOOK_AHEAD {
            let message = format!(
                "the form's `model` did not come within its first {} MiB: put `model` before the file",
                LOOK_AHEAD >> 20
            );
            return Err(Error::invalid(MODEL, message));
        }
        self.held.grow(piece.len() as u64)?;
        self.head.extend_from_slice(piece);
        let mut seen = Vec::new();
        self.scanner.push(piece, &mut seen)?;
        for event in seen {
            match event {
                Seen::Part { name, file: false, from, at } => self.open = Some((name, from as usize, at as usize)),
                Seen::Part { file: true, .. } => {
                    self.file = true;
                    self.open = None;
                }
                Seen::End { at } => {
                    let Some((name, part, begin)) = self.open.take() else { continue };
                    if name == MODEL && self.has_model() {
                        return Err(twice());
                    }
                    self.places.push(Place { name, content: begin..at as usize, part });
                }
            }
        }
        self.closed = self.scanner.finish().is_ok();
        Ok(())
    }
}

fn fields(places: &[Place], head: &[u8]) -> Result<Map<String, Value>> {
    let mut out = Map::new();
    for Place { name, content, .. } in places {
        let text = std::str::from_utf8(&head[content.clone()])
            .map_err(|_| Error::invalid(name.as_str(), format!("the form's field `{name}` is not UTF-8")))?;
        let value = match (name.as_str(), text.trim()) {
            ("stream", "true") => Value::Bool(true),
            ("stream", _) => Value::Bool(false),
            _ => Value::from(text),
        };
        match out.get_mut(name) {
            None => {
                out.insert(name.clone(), value);
            }
            Some(Value::Array(list)) => list.push(value),
            Some(one) => *one = Value::Array(vec![one.take(), value]),
        }
    }
    Ok(out)
}

/// What follows the head, looked over while it goes by.
struct Rest {
    upload: Upload<Incoming>,
    scanner: Scanner,
    /// The head had a model.
    model: bool,
    /// Held back until the form is known to be whole or to go on: no upstream gets all of half a form.
    last: Option<Bytes>,
    ended: bool,
}

impl Rest {
    fn look(&mut self, piece: &Bytes) -> Result<()> {
        let mut seen = Vec::new();
        self.scanner.push(piece, &mut seen)?;
        // A second name might be the one that the upstream takes.
        let second = |s: &Seen| matches!(s, Seen::Part { name, .. } if name == MODEL);
        if self.model && seen.iter().any(second) { Err(twice()) } else { Ok(()) }
    }
}

impl Body for Rest {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        while !self.ended {
            match std::task::ready!(self.upload.poll_piece(cx)) {
                Some(Ok(piece)) => {
                    if let Err(error) = self.look(&piece) {
                        self.ended = true;
                        return Poll::Ready(Some(Err(error)));
                    }
                    if let Some(before) = self.last.replace(piece) {
                        return Poll::Ready(Some(Ok(Frame::data(before))));
                    }
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.ended = true;
                    if let Err(error) = self.scanner.finish() {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
        }
        Poll::Ready(self.last.take().map(|piece| Ok(Frame::data(piece))))
    }
}

fn twice() -> Error {
    Error::new(Kind::InvalidRequest, "the form names `model` twice").at(MODEL).with_code("invalid_form")
}

const MODEL: &str = "model";
/// Some clients write the file first. So much is held to find the model behind it.
const LOOK_AHEAD: usize = 8 << 20;
