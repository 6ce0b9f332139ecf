//! Moments as limits and budgets count them: whole numbers since this process began to count, made once for all scopes of a
//! request. Reads no clock.

use std::{sync::LazyLock, time::Instant};

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// From here on, at the latest.
pub fn begin() {
    LazyLock::force(&BEGAN);
}

/// As limits have them.
pub fn millis(now: Instant) -> u64 {
    let passed = now.saturating_duration_since(*BEGAN);
    passed.as_secs().saturating_mul(1_000).saturating_add(u64::from(passed.subsec_millis()))
}

/// As budgets have them.
pub fn nanos(now: Instant) -> u64 {
    let passed = now.saturating_duration_since(*BEGAN);
    passed.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(passed.subsec_nanos()))
}
