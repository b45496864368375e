//! Numbers as results have them: rounded in JSON, grouped and with their units in texts.

#![expect(clippy::cast_sign_loss, reason = "rates are not negative")]

use std::time::Duration;

use bytesize::ByteSize;

/// How much that is in a second; nothing in no time.
pub(crate) fn per_second(amount: f64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { amount / time.as_secs_f64() }
}

/// To three decimals.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// A number with commas between groups of three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes, in the largest unit of which there is one.
pub(crate) fn bytes(number: u64) -> String {
    ByteSize(number).display().iec().to_string()
}

/// So many of `what`.
pub(crate) fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(number))
}

/// A rate, with a decimal where that says something.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second < 100.0 { format!("{per_second:.1}") } else { grouped(per_second.round() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (123_456, "123,456"),
            (1_000_000, "1,000,000"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn small_rates_have_a_decimal() {
        for (per_second, text) in [(0.0, "0.0"), (2.67, "2.7"), (123.4, "123"), (9999.6, "10,000")]
        {
            assert_eq!(rate(per_second), text);
        }
    }
}
