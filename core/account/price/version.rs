//! Which prices a cost was made by: a short hash of all that they say. It stands in each row of the ledger, so that usage can
//! be priced again where prices were wrong, and nowhere else.

use std::fmt::{self, Write as _};

use aws_lc_rs::digest::{Context, SHA256};

use crate::config::{PriceSheet, Prices};

/// Prices that say the same have the same one, wherever they were written.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version([u8; 6]);

impl Version {
    pub fn of(sheet: &PriceSheet) -> Version {
        let PriceSheet { prices, tiers, services } = sheet;
        let mut hash = Context::new(&SHA256);
        let mut add = |what: &str, n: u64, prices: &Prices| {
            hash.update(format!("{what} {n}\n").as_bytes());
            for (key, nano) in Prices::KEYS.iter().zip(prices.figures()) {
                if let Some(nano) = nano {
                    hash.update(format!("{key} {nano}\n").as_bytes());
                }
            }
        };
        add("usual", 0, prices);
        tiers.iter().for_each(|tier| add("above", tier.above, &tier.prices));
        for service in services {
            let factor = service.factor.map_or(0, |factor| factor.unsigned_abs());
            add(service.service.name(), factor, &service.prices);
            service.tiers.iter().for_each(|tier| add("above", tier.above, &tier.prices));
        }
        Version::end(hash)
    }

    /// Of prices that a function makes: its text, and what else it goes by.
    pub fn with(self, source: &str) -> Version {
        let mut hash = Context::new(&SHA256);
        hash.update(&self.0);
        hash.update(source.as_bytes());
        Version::end(hash)
    }

    fn end(hash: Context) -> Version {
        let mut out = [0; 6];
        for (mine, theirs) in out.iter_mut().zip(hash.finish().as_ref()) {
            *mine = *theirs;
        }
        Version(out)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In each row of the ledger: without a formatter for each byte.
        let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half & 15)]);
        self.0.iter().try_for_each(|byte| f.write_char(digit(byte >> 4)).and_then(|()| f.write_char(digit(*byte))))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
