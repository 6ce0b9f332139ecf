//! The chain that the rows make: each holds the hash of the one before, and a proof (an HMAC) that only the holder of the
//! master key can make. Whoever has the rows can follow the hashes; with the key every change of a row, every missing or moved
//! one and every missing end shows. Pure: bytes in, verdicts out.

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
};
use serde_json::{Map, Value, json};

use crate::store::hex;

/// The last row of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub seq: u64,
    pub hash: [u8; 32],
}

/// Before the first row.
pub const NOTHING: Head = Head { seq: 0, hash: [0; 32] };

/// A chain that is not as it was written, from this row on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub node: String,
    pub seq: u64,
    pub fault: Fault,
    /// A sentence.
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Changed,
    Missing,
    Reordered,
    Truncated,
}

/// What was seen of one chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub node: String,
    pub rows: u64,
    pub first: u64,
    pub last: u64,
}

/// The bytes of the next row, and the head that it makes.
pub fn link(key: &hmac::Key, node: &str, head: Head, time: &str, fields: Map<String, Value>) -> (Vec<u8>, Head) {
    let seq = head.seq + 1;
    let mut row = Map::new();
    row.insert("seq".into(), json!(seq));
    row.insert("node".into(), json!(node));
    row.insert("time".into(), json!(time));
    row.extend(fields);
    row.insert("prev".into(), json!(hex::encode(&head.hash)));
    let bytes = proven(key, &Value::Object(row).to_string());
    let head = Head { seq, hash: hash(&bytes) };
    (bytes, head)
}

/// A head, or a checkpoint, as the store and the file beside it hold it.
pub fn mark(key: &hmac::Key, kind: &str, node: &str, head: Head, time: &str) -> Vec<u8> {
    let hash = hex::encode(&head.hash);
    proven(key, &json!({ "kind": kind, "node": node, "seq": head.seq, "hash": hash, "time": time }).to_string())
}

/// `None`: nobody with the key wrote this as such a mark of this node.
pub fn read_mark(key: &hmac::Key, kind: &str, node: &str, bytes: &[u8]) -> Option<Head> {
    let value = checked(key, bytes)?;
    let right = value["kind"] == kind && value["node"] == node;
    let hash = hex::decode(value["hash"].as_str()?)?;
    right.then_some(Head { seq: value["seq"].as_u64()?, hash })
}

/// What a row says, if it is one of ours and unchanged.
pub fn checked(key: &hmac::Key, bytes: &[u8]) -> Option<Value> {
    let cut = bytes.len().checked_sub(TAIL)?;
    let (body, tail) = bytes.split_at(cut);
    let proof = tail.strip_prefix(MAC)?.strip_suffix(b"\"}")?;
    let proof = hex::decode(std::str::from_utf8(proof).ok()?)?;
    let mut whole = body.to_vec();
    whole.push(b'}');
    hmac::verify(key, &whole, &proof).ok()?;
    serde_json::from_slice(bytes).ok()
}

pub fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

/// The object with its proof as the last member.
fn proven(key: &hmac::Key, object: &str) -> Vec<u8> {
    let proof = hmac::sign(key, object.as_bytes());
    let mut bytes = object.as_bytes()[..object.len() - 1].to_vec();
    bytes.extend_from_slice(MAC);
    bytes.extend_from_slice(hex::encode(proof.as_ref()).as_bytes());
    bytes.extend_from_slice(b"\"}");
    bytes
}

/// Follows one chain, row by row in the order of their keys.
pub struct Walk<'k> {
    key: &'k hmac::Key,
    node: String,
    last: Head,
    first: Option<u64>,
    rows: u64,
    /// What was the end at some time, and who says so.
    noted: Vec<(Head, &'static str)>,
}

impl<'k> Walk<'k> {
    /// `from`: the checkpoint, or nothing.
    pub fn new(key: &'k hmac::Key, node: &str, from: Head, noted: Vec<(Head, &'static str)>) -> Walk<'k> {
        Walk { key, node: node.to_owned(), last: from, first: None, rows: 0, noted }
    }

    /// The row that stands at `place`.
    pub fn next(&mut self, place: u64, bytes: &[u8]) -> Result<(), Broken> {
        let expected = self.last.seq + 1;
        if place > expected {
            let gap = if place - 1 == expected { String::new() } else { format!(" to {}", place - 1) };
            let why = format!("row {expected}{gap} is missing: row {place} follows row {}", self.last.seq);
            return Err(self.broken(expected, Fault::Missing, why));
        }
        let Some(row) = checked(self.key, bytes) else {
            return Err(self.broken(place, Fault::Changed, format!("row {place} is not as it was written")));
        };
        let (seq, node) = (row["seq"].as_u64().unwrap_or(0), row["node"].as_str().unwrap_or_default());
        if seq != place || node != self.node || place < expected {
            let why = format!("at the place of row {place} lies row {seq} of node {node:?}");
            return Err(self.broken(place, Fault::Reordered, why));
        }
        if row["prev"] != hex::encode(&self.last.hash) {
            let before = self.last.seq;
            let why = format!("row {before} is not the one that row {place} was written after");
            return Err(self.broken(before.max(1), Fault::Changed, why));
        }
        self.last = Head { seq: place, hash: hash(bytes) };
        let other = |(noted, _): &&(Head, &str)| noted.seq == place && noted.hash != self.last.hash;
        if let Some((_, who)) = self.noted.iter().find(other) {
            let why = format!("row {place} is not the one that {who} names");
            return Err(self.broken(place, Fault::Changed, why));
        }
        self.first.get_or_insert(place);
        self.rows += 1;
        Ok(())
    }

    /// After the last row. `head`: what the store says now was the last one; `None`: nothing that can be believed.
    pub fn end(self, head: Option<Head>) -> Result<Seen, Broken> {
        let (last, after) = (self.last, self.last.seq + 1);
        if let Some((noted, who)) = self.noted.iter().find(|(noted, _)| noted.seq > last.seq) {
            let gap = if noted.seq == after {
                format!("row {after} is")
            } else {
                format!("rows {after} to {} are", noted.seq)
            };
            let why = format!("{gap} missing at the end: {who} names the last");
            return Err(self.broken(after, Fault::Truncated, why));
        }
        match head {
            // Others go on writing.
            Some(head) if head == last || head.seq > last.seq => {
                Ok(Seen { node: self.node, rows: self.rows, first: self.first.unwrap_or(0), last: last.seq })
            }
            Some(head) => {
                let why = format!("the store's head names row {}, and the last row is {}", head.seq, last.seq);
                Err(self.broken(head.seq.max(1), Fault::Changed, why))
            }
            None => {
                let why =
                    "the row that names the end is missing or changed: the end of the chain is not known".to_owned();
                Err(self.broken(after, Fault::Truncated, why))
            }
        }
    }

    fn broken(&self, seq: u64, fault: Fault, why: String) -> Broken {
        Broken { node: self.node.clone(), seq, fault, why }
    }
}

impl Fault {
    pub const fn name(self) -> &'static str {
        match self {
            Fault::Changed => "changed",
            Fault::Missing => "missing",
            Fault::Reordered => "reordered",
            Fault::Truncated => "truncated",
        }
    }
}

const MAC: &[u8] = b",\"mac\":\"";
/// The last member, and the brace behind it.
const TAIL: usize = MAC.len() + 64 + 2;
