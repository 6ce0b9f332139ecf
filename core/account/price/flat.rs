//! What short requests cost, in a few numbers that are copied to where many targets are compared. Charges nobody.

use super::{MILLION, Plan, Rates};

/// What short requests cost, for comparing many targets: copied to where they are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Flat {
    /// Of longer requests it knows nothing.
    up_to: u64,
    input: f64,
    output: f64,
    request: f64,
}

impl Flat {
    /// As `Rates::about`; `None`: that one has to be asked.
    #[inline]
    pub fn about(&self, input_tokens: u64, output_tokens: f64) -> Option<f64> {
        let tokens = || self.input * input_tokens as f64 + self.output * output_tokens;
        (input_tokens <= self.up_to).then(|| tokens() / MILLION as f64 + self.request)
    }
}

impl Rates {
    /// What `about` says of short requests, as far as a few numbers can.
    pub fn flat(&self) -> Flat {
        let Plan { base, tiers } = &self.usual;
        let (Some(input), Some(output), None) = (base.input, base.output, &self.function) else {
            return Flat::default();
        };
        let up_to = tiers.first().map_or(u64::MAX, |(above, _)| *above);
        Flat { up_to, input: input as f64, output: output as f64, request: base.request as f64 }
    }
}
