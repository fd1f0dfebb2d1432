//! Rounding, comparison, roots, powers and logarithms.

use std::cmp::Ordering;

use dashu_int::{IBig, UBig};
use dashu_ratio::RBig;

use super::small_integer;
use crate::error::{ErrorKind, Problem};
use crate::limits::BITS_MAX;
use crate::meter::Meter;
use crate::number::{Number, float_to_fraction, scaled};
use crate::text::brief;

/// Decimals that a number can be rounded to, to either side of the point.
const DECIMALS_MAX: i64 = 1_000;

/// The degree of a root, and the result of an exact logarithm.
const DEGREE_MAX: i64 = 1_000_000_000;

/// Up to this degree, what remains of a power of two after its root is taken is still a double.
const SCALED_DEGREE_MAX: i64 = 1_000;

type Result = std::result::Result<Number, Problem>;

pub(super) fn abs(arguments: &[Number], _: &mut Meter<'_>) -> Result {
    Ok(arguments[0].clone().absolute())
}

pub(super) fn sign(arguments: &[Number], _: &mut Meter<'_>) -> Result {
    Ok(Number::integer(match arguments[0].sign() {
        Ordering::Less => -1,
        Ordering::Equal => 0,
        Ordering::Greater => 1,
    }))
}

pub(super) fn floor(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    to_integer(&arguments[0], meter, RBig::floor)
}

pub(super) fn ceil(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    to_integer(&arguments[0], meter, RBig::ceil)
}

pub(super) fn trunc(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    to_integer(&arguments[0], meter, RBig::trunc)
}

pub(super) fn fract(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let whole = trunc(arguments, meter)?;
    arguments[0].subtract(&whole, meter)
}

/// Rounds the decimal that a person sees: `round(2.675, 2)` is 2.68, although no double is 2.675.
pub(super) fn round(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let decimals = match arguments.len() {
        1 => 0,
        _ => small_integer(arguments, 1, DECIMALS_MAX, "number of decimals")?,
    };
    let value = arguments[0].to_decimal_fraction();
    let scale = RBig::from(UBig::from(10u8).pow(decimals.unsigned_abs() as usize));
    meter.charge_for(&value, &scale)?;
    let rounded = if decimals < 0 {
        RBig::from((value / &scale).round()) * scale
    } else {
        RBig::from((value * &scale).round()) / scale
    };
    Number::exact(rounded)
}

pub(super) fn min(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    extreme(arguments, meter, Ordering::Less)
}

pub(super) fn max(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    extreme(arguments, meter, Ordering::Greater)
}

fn extreme(arguments: &[Number], meter: &mut Meter<'_>, wanted: Ordering) -> Result {
    let mut best = &arguments[0];
    for argument in &arguments[1..] {
        meter.charge(argument.compare_cost(best))?;
        if argument.compare(best) == wanted {
            best = argument;
        }
    }
    Ok(best.clone())
}

pub(super) fn clamp(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let [x, low, high] = [&arguments[0], &arguments[1], &arguments[2]];
    meter.charge(x.compare_cost(low) + x.compare_cost(high) + low.compare_cost(high))?;
    if low.compare(high) == Ordering::Greater {
        let message = format!("the range is empty: {} is above {}", brief(low), brief(high));
        return Err(Problem::domain(message).argument(1));
    }
    if x.compare(low) == Ordering::Less {
        return Ok(low.clone());
    }
    Ok(if x.compare(high) == Ordering::Greater { high } else { x }.clone())
}

pub(super) fn modulo(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    Ok(arguments[0].floor_divide(&arguments[1], meter)?.1)
}

pub(super) fn remainder(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let (a, b) = (arguments[0].clone(), arguments[1].clone().absolute());
    // Between positive numbers the two kinds of remainder agree; the sign of the first comes back afterwards.
    let negative = a.is_negative();
    let (_, rest) = a.absolute().floor_divide(&b, meter)?;
    Ok(if negative { rest.negate() } else { rest })
}

pub(super) fn sqrt(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    square_root(&arguments[0], meter)
}

pub(super) fn square_root(x: &Number, meter: &mut Meter<'_>) -> Result {
    if x.is_negative() {
        return Err(Problem::domain(format!("the square root of {} is not real", brief(x))).argument(0));
    }
    let Number::Exact(value) = x else { return x.map_double(meter, libm::sqrt) };
    if let Some(root) = Number::exact_root(value, 2, meter)? {
        return Number::exact(root);
    }
    // Beyond the range of doubles, the root is still within it.
    let (mantissa, exponent) = scaled(value);
    Number::approximate(libm::ldexp(libm::sqrt(mantissa), (exponent / 2) as i32))
}

pub(super) fn cbrt(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    odd_root(&arguments[0], 3, meter, libm::cbrt)
}

pub(super) fn root(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let degree = small_integer(arguments, 1, DEGREE_MAX, "degree of a root")?;
    let x = &arguments[0];
    if degree == 0 {
        return Err(Problem::domain("there is no root of degree 0").argument(1));
    }
    if degree < 0 {
        let root = root(&[x.clone(), Number::integer(-degree)], meter)?;
        return Number::integer(1).divide(&root, meter).map_err(|problem| problem.argument(0));
    }
    match degree {
        1 => Ok(x.clone()),
        2 => square_root(x, meter),
        3 => odd_root(x, 3, meter, libm::cbrt),
        _ if x.is_negative() && degree % 2 == 0 => {
            Err(Problem::domain(format!("a negative number has no real root of degree {degree}")).argument(0))
        }
        _ => {
            let negative = x.is_negative();
            let magnitude = x.clone().absolute();
            let root = match &magnitude {
                Number::Exact(value) => Number::exact_root(value, degree as usize, meter)?,
                Number::PiTimes(_) | Number::Approximate(_) => None,
            };
            let root = match root {
                Some(root) => Number::exact(root)?,
                None => Number::approximate(positive_root(&magnitude, degree)?)?,
            };
            Ok(if negative { root.negate() } else { root })
        }
    }
}

/// A root as a double, also of numbers that no double holds.
fn positive_root(x: &Number, degree: i64) -> std::result::Result<f64, Problem> {
    let inverse = 1.0 / degree as f64;
    match (x, x.to_f64()) {
        (_, Ok(value)) if value.is_normal() => Ok(libm::pow(value, inverse)),
        (Number::Exact(value), _) if degree < SCALED_DEGREE_MAX => {
            // The root of the power of two is taken exactly, as far as the degree divides it.
            let (mantissa, exponent) = scaled(value);
            let rest = libm::ldexp(mantissa, exponent.rem_euclid(degree) as i32);
            Ok(libm::ldexp(libm::pow(rest, inverse), exponent.div_euclid(degree) as i32))
        }
        _ => Ok(libm::exp(natural_logarithm(x)? * inverse)),
    }
}

fn odd_root(x: &Number, degree: usize, meter: &mut Meter<'_>, function: fn(f64) -> f64) -> Result {
    let negative = x.is_negative();
    let magnitude = x.clone().absolute();
    if let Number::Exact(value) = &magnitude
        && let Some(root) = Number::exact_root(value, degree, meter)?
    {
        let root = Number::exact(root)?;
        return Ok(if negative { root.negate() } else { root });
    }
    x.map_double(meter, function)
}

pub(super) fn pow(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    arguments[0].power(&arguments[1], meter)
}

pub(super) fn hypot(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    if arguments.iter().all(|argument| matches!(argument, Number::Exact(_))) {
        let mut squares = Number::ZERO;
        for argument in arguments {
            squares = squares.add(&argument.multiply(argument, meter)?, meter)?;
        }
        return square_root(&squares, meter);
    }
    let mut length = 0.0;
    for argument in arguments {
        meter.charge(1)?;
        length = libm::hypot(length, argument.to_f64()?);
    }
    Number::approximate(length)
}

pub(super) fn exp(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    if arguments[0].is_zero() {
        return Ok(Number::integer(1));
    }
    arguments[0].map_double(meter, libm::exp)
}

pub(super) fn expm1(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    if arguments[0].is_zero() {
        return Ok(Number::ZERO);
    }
    arguments[0].map_double(meter, libm::expm1)
}

pub(super) fn ln(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let x = positive(arguments, 0)?;
    meter.charge(1)?;
    if x.is_one() {
        return Ok(Number::ZERO);
    }
    Number::approximate(natural_logarithm(x)?)
}

pub(super) fn log(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    match arguments.len() {
        1 => ln(arguments, meter),
        _ => logb(arguments, meter),
    }
}

pub(super) fn log2(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    logarithm(positive(arguments, 0)?, &Number::integer(2), meter, libm::log2)
}

pub(super) fn log10(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    logarithm(positive(arguments, 0)?, &Number::integer(10), meter, libm::log10)
}

pub(super) fn logb(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let (x, base) = (positive(arguments, 0)?, positive(arguments, 1)?);
    if base.compare(&Number::integer(1)) == Ordering::Equal {
        return Err(Problem::domain("1 is not the base of a logarithm").argument(1));
    }
    if let Some(result) = exact_logarithm(x, base, meter)? {
        return Ok(result);
    }
    Number::approximate(natural_logarithm(x)? / natural_logarithm(base)?)
}

pub(super) fn log1p(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let sum = Number::integer(1).add(&arguments[0], meter)?;
    if sum.sign() != Ordering::Greater {
        return Err(Problem::domain(format!("log1p needs a number above -1, not {}", brief(&arguments[0]))).argument(0));
    }
    if arguments[0].is_zero() {
        return Ok(Number::ZERO);
    }
    arguments[0].map_double(meter, libm::log1p)
}

pub(super) fn isclose(arguments: &[Number], meter: &mut Meter<'_>) -> std::result::Result<bool, Problem> {
    let (a, b) = (&arguments[0], &arguments[1]);
    let tolerance = arguments.get(2).cloned().unwrap_or_else(|| Number::fraction(1, 1_000_000_000));
    if tolerance.is_negative() {
        return Err(Problem::domain("a tolerance is not negative").argument(2));
    }
    let difference = a.subtract(b, meter)?.absolute();
    let larger = max(&[a.clone().absolute(), b.clone().absolute()], meter)?;
    let allowed = tolerance.multiply(&larger, meter)?;
    meter.charge(difference.compare_cost(&allowed))?;
    Ok(difference.compare(&allowed) != Ordering::Greater)
}

fn to_integer(x: &Number, meter: &mut Meter<'_>, rounding: fn(&RBig) -> IBig) -> Result {
    let value = match x {
        Number::Approximate(value) => float_to_fraction(*value),
        Number::Exact(_) | Number::PiTimes(_) => x.to_decimal_fraction(),
    };
    meter.charge_for(&value, &value)?;
    Number::exact(RBig::from(rounding(&value)))
}

/// An argument that a logarithm exists of.
fn positive(arguments: &[Number], index: usize) -> std::result::Result<&Number, Problem> {
    let x = &arguments[index];
    match x.sign() {
        Ordering::Greater => Ok(x),
        Ordering::Equal => Err(Problem::domain("the logarithm of zero is infinite").argument(index)),
        Ordering::Less => Err(Problem::domain(format!("the logarithm of {} is not real", brief(x))).argument(index)),
    }
}

/// The natural logarithm of a positive number, also of those that no double holds.
fn natural_logarithm(x: &Number) -> std::result::Result<f64, Problem> {
    let Number::Exact(value) = x else { return Ok(libm::log(x.to_f64()?)) };
    let above_one = (value - RBig::ONE).to_f64().value();
    if above_one.abs() < 0.5 {
        // Near one, a double of the number itself would lose what the logarithm consists of.
        return Ok(libm::log1p(above_one));
    }
    let direct = value.to_f64().value();
    if direct.is_normal() {
        return Ok(libm::log(direct));
    }
    let (mantissa, exponent) = scaled(value);
    Ok(libm::log(mantissa) + exponent as f64 * std::f64::consts::LN_2)
}

/// A logarithm with a function of its own for doubles.
fn logarithm(x: &Number, base: &Number, meter: &mut Meter<'_>, function: fn(f64) -> f64) -> Result {
    if let Some(result) = exact_logarithm(x, base, meter)? {
        return Ok(result);
    }
    match x.to_f64() {
        Ok(value) if value.is_normal() => Number::approximate(function(value)),
        _ => Number::approximate(natural_logarithm(x)? / natural_logarithm(base)?),
    }
}

/// The integer that is the logarithm of one exact number to another, if there is one.
fn exact_logarithm(x: &Number, base: &Number, meter: &mut Meter<'_>) -> std::result::Result<Option<Number>, Problem> {
    let (Number::Exact(_), Number::Exact(_)) = (x, base) else { return Ok(None) };
    let guess = libm::round(natural_logarithm(x)? / natural_logarithm(base)?);
    if !guess.is_finite() || (BITS_MAX as f64) < guess.abs() {
        return Ok(None);
    }
    let guess = Number::Exact(float_to_fraction(guess));
    let power = match base.power(&guess, meter) {
        Ok(power) => power,
        // Where the power overflows, it is certainly not the number.
        Err(problem) if problem.kind == ErrorKind::Overflow => return Ok(None),
        Err(problem) => return Err(problem),
    };
    meter.charge(power.compare_cost(x))?;
    Ok((power == *x).then_some(guess))
}
