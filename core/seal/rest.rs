//! What the gateway writes down itself and nobody else may read: sealed with a key that is made from the master key, each piece
//! bound to what it is and whose it is. Names say nothing about what they stand for. Pure: bytes in, bytes out; knows no files.

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac, rand,
};

use super::{Tenant, Thing, bound};
use crate::error::{Error, Kind, Result};

/// Seals and opens what lies on the disk.
pub struct AtRest {
    bodies: LessSafeKey,
    names: hmac::Key,
}

/// What a tenant's thing is called where others can see the name. Nobody without the key can tell whose it is, or which one.
pub type Name = [u8; 16];

impl AtRest {
    /// `secret`: derived from the master key for this purpose alone.
    pub fn new(secret: &[u8; 32]) -> Result<AtRest> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let bodies = UnboundKey::new(&AES_256_GCM_SIV, hmac::sign(&root, b"bodies").as_ref())
            .map_err(|_| Error::new(Kind::Internal, "the key for what is kept cannot be made"))?;
        let names = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, b"names").as_ref());
        Ok(AtRest { bodies: LessSafeKey::new(bodies), names })
    }

    /// The tenant is a part of its own: no id of one tenant has the name of another one's.
    pub fn name(&self, thing: Thing, tenant: Tenant<'_>, id: &str) -> Name {
        let mut context = hmac::Context::with_key(&self.names);
        let whose = bound(thing, tenant);
        context.update(&(whose.len() as u64).to_be_bytes());
        context.update(&whose);
        context.update(id.as_bytes());
        let mut name = Name::default();
        context.sign().as_ref().iter().zip(&mut name).for_each(|(from, to)| *to = *from);
        name
    }

    /// The bytes in their sealed form, `OVERHEAD` longer. They open only together with `with`.
    pub fn seal(&self, with: &[u8], bytes: &[u8]) -> Result<Vec<u8>> {
        let failed = || Error::new(Kind::Internal, "what is kept could not be sealed");
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| failed())?;
        let mut sealed = Vec::with_capacity(bytes.len() + OVERHEAD);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(bytes);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .bodies
            .seal_in_place_separate_tag(nonce, Aad::from(with), &mut sealed[NONCE_LEN..])
            .map_err(|_| failed())?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// `None`: damaged, another one's, or sealed under another master key.
    pub fn open(&self, with: &[u8], mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        let (nonce, body) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self.bodies.open_in_place(nonce, Aad::from(with), body).ok()?.len();
        sealed.copy_within(NONCE_LEN..NONCE_LEN + plain, 0);
        sealed.truncate(plain);
        Some(sealed)
    }
}

/// A nonce before and a tag behind.
pub const OVERHEAD: usize = NONCE_LEN + 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn at_rest(byte: u8) -> AtRest {
        AtRest::new(&[byte; 32]).expect("keys")
    }

    #[test]
    fn what_is_sealed_opens_with_its_own_words_and_key_only() {
        let rest = at_rest(1);
        let sealed = rest.seal(b"mine", b"hello").expect("sealed");
        assert_eq!(sealed.len(), 5 + OVERHEAD);
        assert!(!sealed.windows(5).any(|w| w == b"hello"));
        assert_ne!(sealed, rest.seal(b"mine", b"hello").expect("sealed"), "equal texts do not look equal");
        assert_eq!(rest.open(b"mine", sealed.clone()).as_deref(), Some(&b"hello"[..]));
        assert_eq!(rest.open(b"theirs", sealed.clone()), None);
        assert_eq!(at_rest(2).open(b"mine", sealed.clone()), None);
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(rest.open(b"mine", damaged), None, "byte {at}");
            assert_eq!(rest.open(b"mine", sealed[..at].to_vec()), None, "{at} bytes of it");
        }
    }

    #[test]
    fn a_name_is_one_tenants_and_one_things() {
        let rest = at_rest(1);
        let name = |thing, tenant, id| rest.name(thing, tenant, id);
        let mine = name(Thing::Response, Tenant::Team("lab"), "resp_1");
        assert_eq!(mine, name(Thing::Response, Tenant::Team("lab"), "resp_1"));
        for other in [
            name(Thing::Response, Tenant::Key("lab"), "resp_1"),
            name(Thing::Response, Tenant::Team("la"), "bresp_1"),
            name(Thing::Response, Tenant::Team("lab"), "resp_2"),
            name(Thing::Batch, Tenant::Team("lab"), "resp_1"),
            at_rest(2).name(Thing::Response, Tenant::Team("lab"), "resp_1"),
        ] {
            assert_ne!(mine, other);
        }
    }
}
