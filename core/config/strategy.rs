//! How one of an alias's targets is chosen before the others. Words only: what they mean stands in `route/strategy.rs`.

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strategy {
    #[default]
    First,
    Weighted,
    LeastLatency,
    LeastBusy,
    LeastCost,
    Quota,
}

impl Strategy {
    pub fn name(self) -> &'static str {
        match self {
            Strategy::First => "first",
            Strategy::Weighted => "weighted",
            Strategy::LeastLatency => "least_latency",
            Strategy::LeastBusy => "least_busy",
            Strategy::LeastCost => "least_cost",
            Strategy::Quota => "quota",
        }
    }
}
