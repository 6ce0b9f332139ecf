//! The wrapped keys as the store holds them: each key sealed once for each master key that may open it. Pure: bytes in, bytes
//! out.
//!
//! ```json
//! {"keyring":1,"masters":[{"id":"0123456789abcdef","keys":{"0":"<base64>","1":"<base64>"}}]}
//! ```

use std::collections::BTreeMap;

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac, rand,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::Key;
use crate::store::hex;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ring {
    keyring: u32,
    masters: Vec<Wraps>,
}

/// All keys, for one master key.
#[derive(Debug, Serialize, Deserialize)]
struct Wraps {
    id: String,
    keys: BTreeMap<u32, String>,
}

impl Ring {
    /// `None`: no random numbers.
    pub fn wrap(masters: &[&Key], keys: &BTreeMap<u32, Key>) -> Option<Ring> {
        let wraps = |master: &&Key| -> Option<Wraps> {
            let id = id(master);
            let keys = keys.iter().map(|(number, key)| Some((*number, seal(master, &bound(&id, *number), key)?)));
            Some(Wraps { keys: keys.collect::<Option<_>>()?, id })
        };
        Some(Ring { keyring: VERSION, masters: masters.iter().map(wraps).collect::<Option<_>>()? })
    }

    /// `None`: damaged, or of a version that is not ours.
    pub fn parse(row: &[u8]) -> Option<Ring> {
        serde_json::from_slice(row).ok().filter(|ring: &Ring| ring.keyring == VERSION && !ring.masters.is_empty())
    }

    pub fn row(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// `None`: this master key opens nothing here.
    pub fn unwrap(&self, master: &Key) -> Option<BTreeMap<u32, Key>> {
        let id = id(master);
        let wraps = self.masters.iter().find(|wraps| wraps.id == id)?;
        let keys = wraps.keys.iter().map(|(number, text)| Some((*number, open(master, &bound(&id, *number), text)?)));
        keys.collect::<Option<BTreeMap<_, _>>>().filter(|keys| keys.contains_key(&0))
    }

    /// Is this the master key of the last rotation?
    pub fn newest_is(&self, master: &Key) -> bool {
        self.masters.last().is_some_and(|wraps| wraps.id == id(master))
    }

    pub fn masters(&self) -> usize {
        self.masters.len()
    }
}

/// What the store holds at `store::MASTER_CHECK`: shows whether a master key fits, without telling it.
pub fn check(master: &Key) -> [u8; 32] {
    mac(master, b"portcullis master key check")
}

fn id(master: &Key) -> String {
    hex::encode(&mac(master, b"portcullis master key id")[..8])
}

/// No key passes for another one, or for one of another master.
fn bound(id: &str, number: u32) -> Vec<u8> {
    format!("portcullis keyring\n{id}\n{number}").into_bytes()
}

fn mac(key: &Key, text: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &**key), text).as_ref());
    sum
}

fn cipher(master: &Key) -> Option<LessSafeKey> {
    let key = Key::new(mac(master, b"portcullis master key wraps"));
    UnboundKey::new(&AES_256_GCM_SIV, &*key).ok().map(LessSafeKey::new)
}

fn seal(master: &Key, with: &[u8], key: &Key) -> Option<String> {
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce).ok()?;
    let mut bytes = nonce.to_vec();
    let mut plain = zeroize::Zeroizing::new(key.to_vec());
    let sealed =
        cipher(master)?.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(with), &mut plain);
    bytes.extend_from_slice(&plain);
    bytes.extend_from_slice(sealed.ok()?.as_ref());
    Some(STANDARD.encode(bytes))
}

fn open(master: &Key, with: &[u8], text: &str) -> Option<Key> {
    let mut bytes = zeroize::Zeroizing::new(STANDARD.decode(text).ok()?);
    let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let plain = cipher(master)?.open_in_place(nonce, Aad::from(with), sealed).ok()?;
    Some(Key::new((&*plain).try_into().ok()?))
}

const VERSION: u32 = 1;
