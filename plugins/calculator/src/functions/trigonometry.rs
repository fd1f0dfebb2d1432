//! Angles: exact at multiples of π, where the result is, and doubles everywhere else.

use std::cmp::Ordering;

use dashu_int::{IBig, UBig};
use dashu_ratio::RBig;

use super::double_between;
use crate::error::{ErrorKind, Problem};
use crate::meter::Meter;
use crate::number::Number;
use crate::text::brief;

type Result = std::result::Result<Number, Problem>;

pub(super) fn sin(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    match &arguments[0] {
        Number::PiTimes(factor) => sine_of_pi_times(factor, meter),
        x if x.is_zero() => Ok(Number::ZERO),
        x => x.map_double(meter, libm::sin),
    }
}

pub(super) fn cos(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    match &arguments[0] {
        // The cosine is the sine a quarter turn later.
        Number::PiTimes(factor) => sine_of_pi_times(&(factor + fraction(1, 2)), meter),
        x if x.is_zero() => Ok(Number::integer(1)),
        x => x.map_double(meter, libm::cos),
    }
}

pub(super) fn tan(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let Number::PiTimes(factor) = &arguments[0] else {
        return if arguments[0].is_zero() { Ok(Number::ZERO) } else { arguments[0].map_double(meter, libm::tan) };
    };
    meter.charge_for(factor, factor)?;
    // To the half turn around zero: above -1/2, up to 1/2.
    let mut rest = factor - RBig::from(factor.floor());
    if rest > fraction(1, 2) {
        rest -= RBig::ONE;
    }
    let exact = [(0, 1, 0), (1, 4, 1), (-1, 4, -1)];
    if let Some((_, _, value)) =
        exact.into_iter().find(|(numerator, denominator, _)| rest == fraction(*numerator, *denominator))
    {
        return Ok(Number::integer(value));
    }
    if rest == fraction(1, 2) {
        return Err(infinite("tan", &arguments[0]));
    }
    Number::PiTimes(rest).map_double(meter, libm::tan)
}

pub(super) fn sec(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let cosine = cos(arguments, meter)?;
    inverse(&cosine, "sec", arguments, meter)
}

pub(super) fn csc(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let sine = sin(arguments, meter)?;
    inverse(&sine, "csc", arguments, meter)
}

pub(super) fn cot(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let sine = sin(arguments, meter)?;
    if sine.is_zero() {
        return Err(infinite("cot", &arguments[0]));
    }
    let cosine = cos(arguments, meter)?;
    if cosine.is_zero() {
        return Ok(Number::ZERO);
    }
    let tangent = tan(arguments, meter)?;
    inverse(&tangent, "cot", arguments, meter)
}

fn inverse(value: &Number, name: &str, arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    if value.is_zero() {
        return Err(infinite(name, &arguments[0]));
    }
    Number::integer(1).divide(value, meter)
}

/// The sine of this many half turns.
fn sine_of_pi_times(factor: &RBig, meter: &mut Meter<'_>) -> Result {
    meter.charge_for(factor, factor)?;
    let two = RBig::from(2);
    // To a full turn, then to its first half, then to its first quarter: sin(x + π) is -sin(x), sin(π - x) is sin(x).
    let mut rest = factor - RBig::from((factor / &two).floor()) * two;
    let negative = rest >= RBig::ONE;
    if negative {
        rest -= RBig::ONE;
    }
    if rest > fraction(1, 2) {
        rest = RBig::ONE - rest;
    }
    let known = [
        (0, 1, Number::ZERO),
        (1, 6, Number::fraction(1, 2)),
        (1, 4, Number::Approximate(std::f64::consts::FRAC_1_SQRT_2)),
        (1, 3, Number::Approximate(0.866_025_403_784_438_6)),
        (1, 2, Number::integer(1)),
    ];
    let value = match known.into_iter().find(|(numerator, denominator, _)| rest == fraction(*numerator, *denominator)) {
        Some((_, _, value)) => value,
        // Near the quarter turn a cosine of the small rest is the more precise.
        None if rest > fraction(1, 4) => Number::PiTimes(fraction(1, 2) - rest).map_double(meter, libm::cos)?,
        None => Number::PiTimes(rest).map_double(meter, libm::sin)?,
    };
    Ok(if negative { value.negate() } else { value })
}

pub(super) fn asin(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let x = double_between(arguments, -1, 1, "asin")?;
    meter.charge(1)?;
    match exact_ratio(&arguments[0]) {
        Some(Ratio::Zero) => Ok(Number::ZERO),
        Some(Ratio::One(sign)) => Ok(Number::pi_times(sign, 2)),
        Some(Ratio::Half(sign)) => Ok(Number::pi_times(sign, 6)),
        None => Number::approximate(libm::asin(x)),
    }
}

pub(super) fn acos(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let x = double_between(arguments, -1, 1, "acos")?;
    meter.charge(1)?;
    match exact_ratio(&arguments[0]) {
        Some(Ratio::Zero) => Ok(Number::pi_times(1, 2)),
        Some(Ratio::One(1)) => Ok(Number::ZERO),
        Some(Ratio::One(_)) => Ok(Number::pi_times(1, 1)),
        Some(Ratio::Half(1)) => Ok(Number::pi_times(1, 3)),
        Some(Ratio::Half(_)) => Ok(Number::pi_times(2, 3)),
        None => Number::approximate(libm::acos(x)),
    }
}

pub(super) fn atan(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    match exact_ratio(&arguments[0]) {
        Some(Ratio::Zero) => Ok(Number::ZERO),
        Some(Ratio::One(sign)) => Ok(Number::pi_times(sign, 4)),
        Some(Ratio::Half(_)) | None => arguments[0].map_double(meter, libm::atan),
    }
}

pub(super) fn atan2(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let (y, x) = (&arguments[0], &arguments[1]);
    meter.charge(1 + x.compare_cost(y))?;
    let diagonal = x.clone().absolute() == y.clone().absolute();
    // Along the axes the angle is known whatever the length; on the diagonals, if both are the same number exactly.
    match (y.sign(), x.sign()) {
        (Ordering::Equal, Ordering::Equal) => Err(Problem::domain("the origin lies in no direction")),
        (Ordering::Equal, Ordering::Greater) => Ok(Number::ZERO),
        (Ordering::Equal, Ordering::Less) => Ok(Number::pi_times(1, 1)),
        (Ordering::Greater, Ordering::Equal) => Ok(Number::pi_times(1, 2)),
        (Ordering::Less, Ordering::Equal) => Ok(Number::pi_times(-1, 2)),
        (Ordering::Greater, Ordering::Greater) if diagonal => Ok(Number::pi_times(1, 4)),
        (Ordering::Greater, Ordering::Less) if diagonal => Ok(Number::pi_times(3, 4)),
        (Ordering::Less, Ordering::Less) if diagonal => Ok(Number::pi_times(-3, 4)),
        (Ordering::Less, Ordering::Greater) if diagonal => Ok(Number::pi_times(-1, 4)),
        _ => Number::approximate(libm::atan2(y.to_f64()?, x.to_f64()?)),
    }
}

pub(super) fn sinh(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    zero_or(arguments, Number::ZERO, meter, libm::sinh)
}

pub(super) fn cosh(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    zero_or(arguments, Number::integer(1), meter, libm::cosh)
}

pub(super) fn tanh(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    zero_or(arguments, Number::ZERO, meter, libm::tanh)
}

pub(super) fn asinh(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    zero_or(arguments, Number::ZERO, meter, libm::asinh)
}

pub(super) fn acosh(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let x = &arguments[0];
    match x.compare(&Number::integer(1)) {
        Ordering::Less => {
            Err(Problem::domain(format!("acosh needs a number of at least 1, not {}", brief(x))).argument(0))
        }
        Ordering::Equal => Ok(Number::ZERO),
        Ordering::Greater => x.map_double(meter, libm::acosh),
    }
}

pub(super) fn atanh(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let x = &arguments[0];
    if x.clone().absolute().compare(&Number::integer(1)) != Ordering::Less {
        return Err(Problem::domain(format!("atanh needs a number between -1 and 1, not {}", brief(x))).argument(0));
    }
    zero_or(arguments, Number::ZERO, meter, libm::atanh)
}

pub(super) fn deg(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    arguments[0].multiply(&Number::integer(180), meter)?.divide(&Number::pi_times(1, 1), meter)
}

pub(super) fn rad(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    arguments[0].multiply(&Number::pi_times(1, 180), meter)
}

/// The exact value at zero, and a function of doubles elsewhere.
fn zero_or(arguments: &[Number], at_zero: Number, meter: &mut Meter<'_>, function: fn(f64) -> f64) -> Result {
    if arguments[0].is_zero() {
        return Ok(at_zero);
    }
    arguments[0].map_double(meter, function)
}

/// The ratios of sides whose angle is a simple part of π, with their sign.
enum Ratio {
    Zero,
    Half(i64),
    One(i64),
}

fn exact_ratio(x: &Number) -> Option<Ratio> {
    let Number::Exact(value) = x else { return None };
    let sign = if x.is_negative() { -1 } else { 1 };
    if value.is_zero() {
        Some(Ratio::Zero)
    } else if *value == fraction(sign, 1) {
        Some(Ratio::One(sign))
    } else if *value == fraction(sign, 2) {
        Some(Ratio::Half(sign))
    } else {
        None
    }
}

fn infinite(name: &str, x: &Number) -> Problem {
    Problem::new(ErrorKind::Domain, format!("{name} is infinite at {}", brief(x))).argument(0)
}

fn fraction(numerator: i64, denominator: u64) -> RBig {
    RBig::from_parts(IBig::from(numerator), UBig::from(denominator))
}
