//! Numbers and names as text. Every output uses these, so a number reads the same everywhere.

use crate::evaluate::statistics::{Interval, Retention};

/// Stands where a number is missing.
pub(super) const NOT_MEASURED: &str = "not measured";

/// `value` by `show`, or [`NOT_MEASURED`]; a number that is not finite was not measured either.
pub(super) fn or_not_measured(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.filter(|value| value.is_finite()).map_or_else(|| NOT_MEASURED.to_owned(), show)
}

/// `22.7 M`
pub(super) fn parameters(count: u64) -> String {
    scaled(count as f64, &[(1e9, " G"), (1e6, " M"), (1e3, " k")], "")
}

/// `90.9 MB`, in powers of 1000.
pub(super) fn size(bytes: u64) -> String {
    scaled(bytes as f64, &[(1e9, " GB"), (1e6, " MB"), (1e3, " kB")], " B")
}

fn scaled(value: f64, units: &[(f64, &str)], plain: &str) -> String {
    match units.iter().find(|(scale, _)| value >= *scale) {
        Some((scale, unit)) => format!("{}{unit}", three_digits(value / scale)),
        None => format!("{value}{plain}"),
    }
}

/// Milliseconds with three significant digits.
pub(super) fn milliseconds(value: f64) -> String {
    format!("{} ms", three_digits(value))
}

/// A rate with thousands separated: `12,345`; below 100 with three digits.
pub(super) fn rate(value: f64) -> String {
    if value < 100.0 { three_digits(value) } else { grouped(value.round() as u64) }
}

/// Thousands apart: `66,985,530`.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn three_digits(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.places$}")
}

/// A metric times 100, as tables of the field show it.
pub(super) fn score(value: f64) -> String {
    format!("{:.1}", tidy(100.0 * value, 1))
}

/// `91.3 [89.4, 93.1]`
pub(super) fn score_with_interval(value: f64, interval: Option<&Interval>) -> String {
    match interval {
        Some(interval) => format!("{} [{}, {}]", score(value), score(interval.low), score(interval.high)),
        None => score(value),
    }
}

/// A signed difference of metrics, times 100: `-1.4 [-2.9, +0.1]`.
pub(super) fn difference(value: f64, interval: &Interval) -> String {
    let signed = |value: f64| format!("{:+.1}", tidy(100.0 * value, 1));
    format!("{} [{}, {}]", signed(value), signed(interval.low), signed(interval.high))
}

/// `97.4 % [95.9, 98.9]`
pub(super) fn retention(kept: &Retention) -> String {
    let share = format!("{} %", score(kept.share));
    match &kept.interval {
        Some(interval) => format!("{share} [{}, {}]", score(interval.low), score(interval.high)),
        None => share,
    }
}

/// `0.012`; `< 0.001` below that.
pub(super) fn p_value(value: f64) -> String {
    if value < 0.001 { "< 0.001".to_owned() } else { format!("{value:.3}") }
}

/// A metric's name as a reader expects it.
pub(super) fn metric(name: &str) -> String {
    match name {
        "f1" => "F1".to_owned(),
        "macro_f1" => "macro F1".to_owned(),
        "micro_f1" => "micro F1".to_owned(),
        other => other.replace('_', " "),
    }
}

/// One line of at most `limit` characters; what is cut ends in `…`.
pub(super) fn shorten(text: &str, limit: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() || c == '\u{2028}' { ' ' } else { c }).collect();
    if line.chars().count() <= limit {
        return line;
    }
    line.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

/// No `-0.0`.
fn tidy(value: f64, places: i32) -> f64 {
    if value.abs() < 0.5 * 10f64.powi(-places) { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_in_the_fields_tables() {
        assert_eq!((parameters(22_713_216), parameters(999)), ("22.7 M".to_owned(), "999".to_owned()));
        assert_eq!((size(90_868_376), size(512)), ("90.9 MB".to_owned(), "512 B".to_owned()));
        assert_eq!((milliseconds(0.4567), milliseconds(1234.5)), ("0.457 ms".to_owned(), "1234 ms".to_owned()));
        assert_eq!((rate(1_234_567.8), rate(8.125)), ("1,234,568".to_owned(), "8.12".to_owned()));
        assert_eq!([0, 999, 1000, 66_985_530].map(grouped), ["0", "999", "1,000", "66,985,530"]);
        assert_eq!((p_value(0.0004), p_value(0.0123)), ("< 0.001".to_owned(), "0.012".to_owned()));
        let interval = Interval { low: -0.029, high: -0.0001, level: 0.95, resamples: 2000 };
        assert_eq!(difference(-0.014, &interval), "-1.4 [-2.9, +0.0]");
        assert_eq!(or_not_measured(Some(f64::NAN), score), NOT_MEASURED);
    }

    #[test]
    fn long_texts_are_cut_and_control_characters_removed() {
        assert_eq!(shorten("a\nb\u{1b}[2J", 10), "a b [2J");
        assert_eq!(shorten("ééééé", 3), "éé…");
    }
}
