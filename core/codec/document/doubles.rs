//! A key that stands twice in one object means two things: parsers differ in which one counts. What a stage has looked at goes to an
//! upstream with the one that it saw, the last; whoever is not looked at passes as it came.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::{super::surrogate, Document, to_bytes};
use crate::{
    codec::envelope::Envelope,
    error::{Error, Result},
};

impl Document {
    /// Where somebody has looked: the client's bytes without whatever stands there twice.
    pub(super) fn mean_one_thing(&mut self) -> Result<()> {
        if !self.looked || self.made {
            return Ok(());
        }
        let json = surrogate::mended(&self.bytes, None);
        if !stand(&json) {
            return Ok(());
        }
        let value: Value = serde_json::from_slice(&json).map_err(|_| Error::invalid("body", "it is not valid JSON"))?;
        let bytes = to_bytes(&value);
        let envelope = Envelope::scan(&bytes)?;
        (self.bytes, self.envelope) = (bytes, envelope.into());
        Ok(())
    }
}

/// Does a key stand twice in one object, however it is written?
fn stand(json: &[u8]) -> bool {
    let mut found = false;
    // What cannot be looked through may hide one: whoever takes it for such meets its fault.
    Look(&mut found).deserialize(&mut serde_json::Deserializer::from_slice(json)).is_err() || found
}

/// At one value, and at all below it.
struct Look<'f>(&'f mut bool);

impl<'de> DeserializeSeed<'de> for Look<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Look<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut keys: Vec<Cow<'de, str>> = Vec::with_capacity(8);
        while let Some(Key(key)) = map.next_key()? {
            map.next_value_seed(Look(self.0))?;
            keys.push(key);
        }
        keys.sort_unstable();
        *self.0 |= keys.windows(2).any(|pair| pair[0] == pair[1]);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        while list.next_element_seed(Look(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<(), E> {
        Ok(())
    }
}

/// Borrowed where it has no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec::Inbound, model::Format};

    #[test]
    fn a_key_that_stands_twice_is_found_however_deep_and_however_written() {
        for twice in [
            r#"{"a":1,"a":2}"#,
            r#"{"m":[{"content":"x","b":1,"content":"y"}]}"#,
            r#"{"m":[[{"text":"x","\u0074ext":"y"}]]}"#,
            r#"{"a":{"b":1.5e400,"c":{"d":null,"d":true}}}"#,
        ] {
            assert!(stand(twice.as_bytes()), "{twice}");
        }
        for once in [
            r#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}],"n":12345678901234567890123,"f":-1.5e400,"t":"\u00e9"}"#,
            "[]",
            "{}",
        ] {
            assert!(!stand(once.as_bytes()), "{once}");
        }
        assert!(stand(b"x"), "nobody knows");
    }

    #[test]
    fn what_was_looked_at_goes_on_as_it_was_seen_and_the_rest_as_it_came() {
        let body = r#"{"model":"m","zzz":12345678901234567890123,"messages":[{"role":"user","content":"secret","content":"x"}]}"#;
        let open = || Document::new(Format::OpenaiChat, body.into(), Inbound::default()).unwrap();
        let sent = |document: &mut Document| {
            String::from_utf8(document.patch(&crate::codec::Dialect::of("m"), false).unwrap().0.concat()).unwrap()
        };
        assert_eq!(sent(&mut open()), body);
        let mut seen = open();
        assert_eq!(seen.last_user_text().unwrap(), "x");
        let once = body.replace(r#""content":"secret","#, "");
        assert_eq!(sent(&mut seen), once);
        let mut edited = open();
        edited.edit(crate::codec::Field::MaxTokens).unwrap().max_tokens = Some(5);
        let sent = sent(&mut edited);
        assert!(!sent.contains("secret") && sent.contains("12345678901234567890123") && sent.contains('5'), "{sent}");
    }
}
