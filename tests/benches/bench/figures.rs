//! Medians, percentiles, and what a turn showed.

/// What one turn showed of one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Responses per second.
    pub(crate) rate: f64,
    /// The median wait for a response, in milliseconds.
    pub(crate) p50: f64,
    /// The 99th percentile of the waits, in milliseconds.
    pub(crate) p99: f64,
}

impl Measured {
    /// The median of each figure over some turns, as three columns of a table.
    pub(crate) fn row(turns: &[Self]) -> String {
        if turns.is_empty() {
            return format!("{:>26}", "failed");
        }
        let of = |figure: fn(&Self) -> f64| median(turns.iter().map(figure).collect());
        format!(
            "{:>8.0} {:>8.3} {:>8.3}",
            of(|turn| turn.rate),
            of(|turn| turn.p50),
            of(|turn| turn.p99)
        )
    }
}

/// The median of some numbers; NaN if there are none.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A percentile of sorted numbers, in thousandths: 999 is p99.9. NaN if there are none.
pub(crate) fn percentile(sorted: &[f64], thousandths: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = last * thousandths / 1000;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(crate) fn as_f64(count: usize) -> f64 {
    count as f64
}
