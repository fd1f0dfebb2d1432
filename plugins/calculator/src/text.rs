//! Numbers as text, and as what an answer carries.
//!
//! An exact integer is written in full. Everything else is rounded to a number of significant digits, halves away from
//! zero, and loses its trailing zeros; very small and very large numbers get an exponent, as in `1.5e-7`.

use dashu_int::ops::{BitTest, UnsignedAbs};
use dashu_int::{Sign, UBig};
use dashu_ratio::RBig;

use crate::number::{Number, float_to_fraction};

/// The integers that every double, and so every JSON implementation, holds exactly: 2^53.
const INTEGER_MAX: i64 = 1 << 53;

/// Significant digits that a double can need.
const DOUBLE_DIGITS: u32 = 17;

/// Digits of a number within a message.
const MESSAGE_DIGITS: u32 = 15;

/// The least exponent that is still written out: 0.000001.
const PLAIN_EXPONENT_MIN: i64 = -6;

/// One value as data, as text, and how far to trust them.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub value: Datum,
    pub text: String,
    /// Whether `text` is the value itself and not a rounded form of it.
    pub exact: bool,
    /// The exact value where the text had to round it: `1/3`, `2*pi/3`. An expression, too.
    pub closed_form: Option<String>,
}

/// A value in the types that messages have.
#[derive(Debug, Clone, PartialEq)]
pub enum Datum {
    Boolean(bool),
    /// At most 2^53 in magnitude.
    Integer(i64),
    Number(f64),
    /// The digits of a number that no double holds: a larger integer, more than 17 digits, or an exponent beyond 308.
    Text(String),
}

impl Outcome {
    pub(crate) fn boolean(value: bool) -> Self {
        Self { value: Datum::Boolean(value), text: value.to_string(), exact: true, closed_form: None }
    }

    pub(crate) fn number(number: &Number, precision: u32) -> Self {
        if let Number::Exact(value) = number
            && value.is_int()
        {
            let text = value.numerator().to_string();
            return Self { value: integer(&text), text, exact: true, closed_form: None };
        }
        let (text, exact) = rounded(number, precision);
        let value = match number {
            Number::Approximate(_) => double(&text),
            Number::Exact(_) | Number::PiTimes(_) if precision <= DOUBLE_DIGITS => double(&text),
            // More digits than a double has: a number only if the double denotes all of them.
            Number::Exact(_) | Number::PiTimes(_) => match double(&text) {
                Datum::Number(value) if plain(&Decimal::of_double(value, DOUBLE_DIGITS), precision) != text => {
                    Datum::Text(text.clone())
                }
                value => value,
            },
        };
        let closed_form = match number {
            Number::Exact(value) if !exact => Some(fraction(value)),
            Number::PiTimes(factor) => Some(multiple_of_pi(factor)),
            Number::Exact(_) | Number::Approximate(_) => None,
        };
        Self { value, text, exact, closed_form }
    }
}

/// A number for a message: short, whatever its size.
pub(crate) fn brief(number: &Number) -> String {
    rounded(number, MESSAGE_DIGITS).0
}

/// The value of the shortest decimal that denotes this double.
pub(crate) fn shortest_decimal(value: f64) -> RBig {
    // Decimals of doubles are within all bounds of literals, so that there is nothing to fall back on in practice.
    crate::token::signed_number(&format!("{value:e}")).unwrap_or_else(|_| float_to_fraction(value))
}

/// The text of a number with so many significant digits, and whether that is its exact value.
fn rounded(number: &Number, precision: u32) -> (String, bool) {
    let (decimal, exact) = match number {
        Number::Exact(value) => Decimal::of_fraction(value, precision),
        Number::PiTimes(_) => (Decimal::of_fraction(&number.to_decimal_fraction(), precision).0, false),
        Number::Approximate(value) => (Decimal::of_double(*value, precision), false),
    };
    (plain(&decimal, precision), exact)
}

/// `0.` and the digits, times ten to the power of `exponent + 1`: the first digit stands for `10^exponent`.
struct Decimal {
    negative: bool,
    /// Without trailing zeros; empty for zero.
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// Rounds a fraction, halves away from zero, and says whether there was nothing to round.
    fn of_fraction(value: &RBig, precision: u32) -> (Self, bool) {
        if value.is_zero() {
            return (Self { negative: false, digits: String::new(), exponent: 0 }, true);
        }
        let negative = value.sign() == Sign::Negative;
        let numerator = value.numerator().unsigned_abs();
        let denominator = value.denominator();
        let bits = numerator.bit_len() as f64 - denominator.bit_len() as f64;
        // Off by one at most, in either direction, which the number of digits then shows.
        let mut exponent = (bits * std::f64::consts::LOG10_2).floor() as i64;
        let mut corrections = 0;
        loop {
            let scale = i64::from(precision) - 1 - exponent;
            let power = UBig::from(10u8).pow(scale.unsigned_abs() as usize);
            let (dividend, divisor) = if scale < 0 {
                (numerator.clone(), denominator * power)
            } else {
                (&numerator * power, denominator.clone())
            };
            let quotient = (&dividend * 2u8 + &divisor) / (&divisor * 2u8);
            let exact = &quotient * &divisor == dividend;
            let digits = quotient.to_string();
            // Rounding up to the next power of ten is one digit too many as well, and comes out right one exponent up.
            let error = digits.len() as i64 - i64::from(precision);
            if error == 0 || corrections == 3 {
                let digits = digits.trim_end_matches('0').to_owned();
                return (Self { negative, digits, exponent }, exact);
            }
            exponent += error.signum();
            corrections += 1;
        }
    }

    /// Rounds a double; with all the digits that it may need, takes the shortest text that denotes it.
    fn of_double(value: f64, precision: u32) -> Self {
        let text = match precision {
            DOUBLE_DIGITS.. => format!("{:e}", value.abs()),
            _ => format!("{:.*e}", precision.saturating_sub(1) as usize, value.abs()),
        };
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        let digits = digits.trim_end_matches('0').to_owned();
        Self { negative: value < 0.0, digits, exponent: exponent.parse().unwrap_or(0) }
    }
}

/// Lays the digits out, with an exponent where the zeros would otherwise say more than the digits.
fn plain(decimal: &Decimal, precision: u32) -> String {
    let Decimal { negative, digits, exponent } = decimal;
    let sign = if *negative { "-" } else { "" };
    if digits.is_empty() {
        return "0".to_owned();
    }
    if *exponent < PLAIN_EXPONENT_MIN || i64::from(precision) <= *exponent {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        return format!("{sign}{first}{point}{rest}e{exponent}");
    }
    if *exponent < 0 {
        let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
        return format!("{sign}0.{zeros}{digits}");
    }
    let point = *exponent as usize + 1;
    if digits.len() <= point {
        return format!("{sign}{digits}{}", "0".repeat(point - digits.len()));
    }
    format!("{sign}{}.{}", &digits[..point], &digits[point..])
}

/// The digits of an integer as the number they denote, if every double does, and else as they are.
fn integer(text: &str) -> Datum {
    match text.parse::<i64>() {
        Ok(value) if value.unsigned_abs() <= INTEGER_MAX.unsigned_abs() => Datum::Integer(value),
        _ => Datum::Text(text.to_owned()),
    }
}

/// The text as a number; a whole one as an integer, so that `5` is not shown as `5.0`.
fn double(text: &str) -> Datum {
    if let Datum::Integer(value) = integer(text) {
        return Datum::Integer(value);
    }
    match text.parse::<f64>() {
        // Digits that come out as zero or infinity are beyond the range of doubles.
        Ok(value) if value.is_finite() && value != 0.0 => Datum::Number(value),
        _ => Datum::Text(text.to_owned()),
    }
}

fn fraction(value: &RBig) -> String {
    format!("{}/{}", value.numerator(), value.denominator())
}

fn multiple_of_pi(factor: &RBig) -> String {
    let sign = if factor.sign() == Sign::Negative { "-" } else { "" };
    let numerator = factor.numerator().unsigned_abs();
    let product = if numerator.is_one() { "pi".to_owned() } else { format!("{numerator}*pi") };
    if factor.is_int() { format!("{sign}{product}") } else { format!("{sign}{product}/{}", factor.denominator()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(numerator: i64, denominator: u64, precision: u32) -> String {
        Outcome::number(&Number::fraction(numerator, denominator), precision).text
    }

    #[test]
    fn fractions_are_rounded_halves_away_from_zero() {
        assert_eq!(text(1, 3, 5), "0.33333");
        assert_eq!(text(2, 3, 5), "0.66667");
        assert_eq!(text(5, 2, 1), "3");
        assert_eq!(text(-5, 2, 1), "-3");
        assert_eq!(text(99_999, 10, 4), "1e4");
        assert_eq!(text(99_995, 10, 5), "9999.5");
        assert_eq!(text(199, 2, 2), "1e2");
        assert_eq!(text(1, 8, 15), "0.125");
    }

    #[test]
    fn exponents_appear_where_zeros_would_mislead() {
        assert_eq!(text(1, 1_000_000, 15), "0.000001");
        assert_eq!(text(1, 10_000_000, 15), "1e-7");
        assert_eq!(text(-15, 100_000_000, 15), "-1.5e-7");
        assert_eq!(text(1_234_567, 10, 3), "1.23e5");
        assert_eq!(text(12_345, 10, 4), "1235");
    }

    #[test]
    fn doubles_are_numbers_and_what_they_cannot_hold_is_text() {
        let value = |number: &Number, precision| Outcome::number(number, precision).value;
        let third = Number::fraction(1, 3);
        assert_eq!(value(&third, 15), Datum::Number(0.333333333333333));
        assert_eq!(value(&third, 17), Datum::Number(1.0 / 3.0));
        assert_eq!(value(&third, 20), Datum::Text("0.33333333333333333333".to_owned()));
        assert_eq!(value(&Number::fraction(1, 8), 100), Datum::Number(0.125));
        assert_eq!(value(&Number::integer(1i64 << 53), 15), Datum::Integer(1 << 53));
        assert_eq!(value(&Number::integer((1i64 << 53) + 1), 15), Datum::Text("9007199254740993".to_owned()));
        assert_eq!(value(&Number::Approximate(2.000_000_000_000_000_4), 15), Datum::Integer(2));
        assert_eq!(value(&Number::Approximate(std::f64::consts::E), 17), Datum::Number(std::f64::consts::E));
        assert_eq!(value(&Number::Approximate(0.0), 15), Datum::Integer(0));
        assert_eq!(value(&Number::Approximate(1e300), 15), Datum::Number(1e300));
    }
}
