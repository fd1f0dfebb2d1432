//! Factorials and their relatives, divisors, bits.

use dashu_int::ops::{BitTest, Gcd, UnsignedAbs};
use dashu_int::{IBig, Sign, UBig};
use dashu_ratio::RBig;

use super::{integer, small_integer};
use crate::error::{ErrorKind, Problem};
use crate::limits::{BITS_MAX, FACTORIAL_MAX};
use crate::meter::Meter;
use crate::number::Number;
use crate::text::brief;

type Result = std::result::Result<Number, Problem>;

pub(super) fn factorial(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    falling_product(arguments, 1, meter)
}

pub(crate) fn factorial_of(x: &Number, meter: &mut Meter<'_>) -> Result {
    falling_product(std::slice::from_ref(x), 1, meter)
}

/// n (n - 2) (n - 4) ... down to 1 or 2.
pub(crate) fn double_factorial_of(x: &Number, meter: &mut Meter<'_>) -> Result {
    falling_product(std::slice::from_ref(x), 2, meter)
}

fn falling_product(arguments: &[Number], stride: usize, meter: &mut Meter<'_>) -> Result {
    let n = integer(arguments, 0).map_err(|problem| problem.hint("of other numbers, take `gamma(x + 1)`"))?;
    if n.sign() == Sign::Negative {
        return Err(Problem::domain(format!("{} has no factorial", brief(&arguments[0]))).argument(0));
    }
    match u64::try_from(n) {
        Ok(n) if n <= FACTORIAL_MAX => {
            // The longest of these products has some 130 machine words, and one is multiplied in at a time.
            meter.charge(1 + n / 4)?;
            let product = (1..=n).rev().step_by(stride).fold(UBig::ONE, |product, factor| product * factor);
            Number::exact(RBig::from(product))
        }
        _ => {
            let message = format!("no factorial is computed of more than {FACTORIAL_MAX}");
            let problem = Problem::new(ErrorKind::FactorialTooLarge, message).argument(0);
            Err(problem.hint("`lgamma(n + 1)` is its logarithm"))
        }
    }
}

pub(super) fn gamma(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let x = &arguments[0];
    refuse_poles(x, "gamma")?;
    if let (Number::Exact(_), Some(n)) = (x, x.to_integer())
        && n <= IBig::from(FACTORIAL_MAX)
    {
        return factorial_of(&Number::integer(n - 1), meter);
    }
    x.map_double(meter, libm::tgamma)
}

pub(super) fn lgamma(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    refuse_poles(&arguments[0], "lgamma")?;
    arguments[0].map_double(meter, libm::lgamma)
}

fn refuse_poles(x: &Number, name: &str) -> std::result::Result<(), Problem> {
    if x.sign().is_le() && x.to_integer().is_some() {
        let message = format!("{name} is infinite at {}, as at zero and every negative integer", brief(x));
        return Err(Problem::domain(message).argument(0));
    }
    Ok(())
}

pub(super) fn comb(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let (n, k) = n_and_k(arguments, "comb")?;
    if n < k {
        return Ok(Number::ZERO);
    }
    // Choosing what to leave out is choosing, and the shorter way leads to the same number.
    let rest = &n - &k;
    let k = k.min(rest);
    let mut result = UBig::ONE;
    let mut chosen = UBig::ZERO;
    while chosen < k {
        meter.charge(1 + result.bit_len() as u64 / 64 / 16)?;
        let factor = &n - &chosen;
        chosen += UBig::ONE;
        // Each of these products is itself a number of choices, so that nothing remains of the division.
        result = result * factor / &chosen;
        too_long(&result)?;
    }
    Number::exact(RBig::from(result))
}

pub(super) fn perm(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let (n, k) = n_and_k(arguments, "perm")?;
    if n < k {
        return Ok(Number::ZERO);
    }
    let mut result = UBig::ONE;
    let mut chosen = UBig::ZERO;
    while chosen < k {
        meter.charge(1 + result.bit_len() as u64 / 64 / 16)?;
        result *= &n - &chosen;
        chosen += UBig::ONE;
        too_long(&result)?;
    }
    Number::exact(RBig::from(result))
}

fn n_and_k(arguments: &[Number], name: &str) -> std::result::Result<(UBig, UBig), Problem> {
    let natural = |index| {
        let value = integer(arguments, index)?;
        UBig::try_from(value).map_err(|_| {
            let message = format!("{name} needs integers that are not negative, not {}", brief(&arguments[index]));
            Problem::domain(message).argument(index)
        })
    };
    Ok((natural(0)?, natural(1)?))
}

fn too_long(value: &UBig) -> std::result::Result<(), Problem> {
    if BITS_MAX < value.bit_len() { Err(Problem::overflow()) } else { Ok(()) }
}

pub(super) fn gcd(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let mut result = UBig::ZERO;
    for index in 0..arguments.len() {
        let value = integer(arguments, index)?.unsigned_abs();
        charge(meter, &result, &value)?;
        // Dashu leaves the divisor of two zeros open; here it is zero.
        result = if result.is_zero() {
            value
        } else if value.is_zero() {
            result
        } else {
            result.gcd(value)
        };
    }
    Ok(Number::integer(result))
}

pub(super) fn lcm(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let mut result = UBig::ONE;
    for index in 0..arguments.len() {
        let value = integer(arguments, index)?.unsigned_abs();
        if value.is_zero() {
            return Ok(Number::ZERO);
        }
        charge(meter, &result, &value)?;
        let divisor = (&result).gcd(&value);
        result = result / divisor * value;
        too_long(&result)?;
    }
    Ok(Number::integer(result))
}

fn charge(meter: &mut Meter<'_>, a: &UBig, b: &UBig) -> std::result::Result<(), Problem> {
    meter.charge_for(&RBig::from(a.clone()), &RBig::from(b.clone()))
}

pub(super) fn bitand(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    bits(arguments, meter, |a, b| a & b)
}

pub(super) fn bitor(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    bits(arguments, meter, |a, b| a | b)
}

pub(super) fn bitxor(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    bits(arguments, meter, |a, b| a ^ b)
}

/// Negative integers have as many leading ones as are asked for, as in two's complement.
fn bits(arguments: &[Number], meter: &mut Meter<'_>, operation: fn(IBig, IBig) -> IBig) -> Result {
    let (a, b) = (integer(arguments, 0)?, integer(arguments, 1)?);
    meter.charge(1 + a.bit_len().max(b.bit_len()) as u64 / 1_000)?;
    Number::exact(RBig::from(operation(a, b)))
}

pub(super) fn bitnot(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    meter.charge(1)?;
    Number::exact(RBig::from(!integer(arguments, 0)?))
}

pub(super) fn shl(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let (value, places) = value_and_places(arguments)?;
    meter.charge(1)?;
    Number::exact(RBig::from(value << places))
}

pub(super) fn shr(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let (value, places) = value_and_places(arguments)?;
    meter.charge(1)?;
    Number::exact(RBig::from(value >> places))
}

fn value_and_places(arguments: &[Number]) -> std::result::Result<(IBig, usize), Problem> {
    let value = integer(arguments, 0)?;
    let places = small_integer(arguments, 1, BITS_MAX as i64, "number of places")?;
    match usize::try_from(places) {
        Ok(places) => Ok((value, places)),
        Err(_) => Err(Problem::domain("the number of places is not negative").argument(1)),
    }
}

pub(super) fn erf(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    if arguments[0].is_zero() {
        return Ok(Number::ZERO);
    }
    arguments[0].map_double(meter, libm::erf)
}

pub(super) fn erfc(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    if arguments[0].is_zero() {
        return Ok(Number::integer(1));
    }
    arguments[0].map_double(meter, libm::erfc)
}
