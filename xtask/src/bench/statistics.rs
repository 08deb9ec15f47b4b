//! Means and medians.

/// The middle value, or the mean of the two in the middle. Not a number for no values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The geometric mean of positive values; none for no values, or where one isn't positive.
pub fn geometric_mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut logarithms, mut count) = (0.0, 0.0);
    for value in values {
        if value.partial_cmp(&0.0) != Some(std::cmp::Ordering::Greater) || !value.is_finite() {
            return None;
        }
        logarithms += value.ln();
        count += 1.0;
    }
    (count > 0.0).then(|| (logarithms / count).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn geometric_mean_ratios_and_their_inverses_cancel_out() {
        let mean = geometric_mean([2.0, 8.0]).expect("a mean");
        assert!((mean - 4.0).abs() < 1e-12, "{mean}");
        let mean = geometric_mean([5.0, 0.2]).expect("a mean");
        assert!((mean - 1.0).abs() < 1e-12, "{mean}");
    }

    #[test]
    fn geometric_mean_nothing_or_what_has_none_gives_none() {
        assert_eq!(geometric_mean([]), None);
        assert_eq!(geometric_mean([1.0, 0.0]), None);
        assert_eq!(geometric_mean([1.0, f64::NAN]), None);
        assert_eq!(geometric_mean([1.0, f64::INFINITY]), None);
    }
}
