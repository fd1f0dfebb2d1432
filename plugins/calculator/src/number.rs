//! Numbers and their arithmetic.
//!
//! A number is an exact fraction for as long as it can be, so that `0.1 + 0.2 == 0.3` and `1/3 * 3 == 1`. An exact
//! multiple of π is kept as such, so that `sin(pi)` is 0 and `sin(pi/6)` is 1/2. Everything else is a double.
//!
//! Invariants: the numerator and denominator of an exact number have at most `BITS_MAX` bits; an integer beyond that is
//! an overflow (no double holds it either), a fraction beyond that becomes a double. A double is never infinite, NaN,
//! or negative zero. A multiple of π is never zero.

use std::cmp::Ordering;
use std::sync::LazyLock;

use dashu_int::ops::{Abs, BitTest, SquareRoot, UnsignedAbs};
use dashu_int::{IBig, Sign, UBig};
use dashu_ratio::RBig;

use crate::error::{ErrorKind, Problem};
use crate::limits::BITS_MAX;
use crate::meter::Meter;
use crate::text;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Number {
    Exact(RBig),
    /// This many times π.
    PiTimes(RBig),
    Approximate(f64),
}

/// What an expression or a variable can be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Number(Number),
    Boolean(bool),
}

/// π to 120 decimals, as a fraction: enough for the text of every multiple at the largest precision.
static PI: LazyLock<RBig> = LazyLock::new(|| {
    const DIGITS: &[u8] =
        b"3141592653589793238462643383279502884197169399375105820974944592307816406286208998628034825342117067\
982148086513282306647";
    let digits = DIGITS.iter().fold(UBig::ZERO, |number, digit| number * 10u8 + (digit - b'0'));
    RBig::from_parts(IBig::from(digits), UBig::from(10u8).pow(DIGITS.len() - 1))
});

impl Number {
    pub(crate) const ZERO: Self = Self::Exact(RBig::ZERO);

    pub(crate) fn integer(value: impl Into<IBig>) -> Self {
        Self::Exact(RBig::from(value.into()))
    }

    /// `numerator / denominator`, of which neither is large and the second is not zero.
    pub(crate) fn fraction(numerator: i64, denominator: u64) -> Self {
        Self::Exact(small_fraction(numerator, denominator))
    }

    pub(crate) fn pi_times(numerator: i64, denominator: u64) -> Self {
        Self::PiTimes(small_fraction(numerator, denominator))
    }

    /// Takes an exact result in, if it is within the bounds.
    pub(crate) fn exact(value: RBig) -> Result<Self, Problem> {
        if value.numerator().bit_len() <= BITS_MAX && value.denominator().bit_len() <= BITS_MAX {
            return Ok(Self::Exact(value));
        }
        Self::approximate(value.to_f64().value())
    }

    /// Takes a double in, unless it stands for no number.
    pub(crate) fn approximate(value: f64) -> Result<Self, Problem> {
        if value.is_nan() {
            return Err(Problem::domain("the result is not a number"));
        }
        if value.is_infinite() {
            return Err(Problem::overflow());
        }
        // Adding zero turns negative zero into zero.
        Ok(Self::Approximate(value + 0.0))
    }

    /// The nearest double.
    pub(crate) fn to_f64(&self) -> Result<f64, Problem> {
        let value = self.to_f64_or_infinity();
        if value.is_infinite() {
            let message = "this needs a number too large for anything but exact arithmetic";
            return Err(Problem::new(ErrorKind::Overflow, message));
        }
        Ok(value)
    }

    fn to_f64_or_infinity(&self) -> f64 {
        match self {
            Self::Exact(value) => value.to_f64().value() + 0.0,
            Self::PiTimes(factor) => (factor * &*PI).to_f64().value(),
            Self::Approximate(value) => *value,
        }
    }

    /// The exact value; of a double, that of the shortest decimal which denotes it; of a multiple of π, 120 decimals.
    pub(crate) fn to_decimal_fraction(&self) -> RBig {
        match self {
            Self::Exact(value) => value.clone(),
            Self::PiTimes(factor) => factor * &*PI,
            Self::Approximate(value) => text::shortest_decimal(*value),
        }
    }

    /// The integer that this is, if it is one.
    pub(crate) fn to_integer(&self) -> Option<IBig> {
        match self {
            Self::Exact(value) => value.is_int().then(|| value.numerator().clone()),
            Self::PiTimes(_) => None,
            Self::Approximate(value) => (value.fract() == 0.0).then(|| float_to_fraction(*value).numerator().clone()),
        }
    }

    pub(crate) fn sign(&self) -> Ordering {
        match self {
            Self::Exact(value) | Self::PiTimes(value) => match value.sign() {
                _ if value.is_zero() => Ordering::Equal,
                Sign::Positive => Ordering::Greater,
                Sign::Negative => Ordering::Less,
            },
            Self::Approximate(value) => value.partial_cmp(&0.0).unwrap_or(Ordering::Equal),
        }
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.sign() == Ordering::Equal
    }

    pub(crate) fn is_negative(&self) -> bool {
        self.sign() == Ordering::Less
    }

    pub(crate) fn is_one(&self) -> bool {
        matches!(self, Self::Exact(value) if value.is_one())
    }

    pub(crate) fn negate(self) -> Self {
        match self {
            Self::Exact(value) => Self::Exact(-value),
            Self::PiTimes(factor) => Self::PiTimes(-factor),
            Self::Approximate(value) => Self::Approximate(0.0 - value),
        }
    }

    pub(crate) fn absolute(self) -> Self {
        if self.is_negative() { self.negate() } else { self }
    }

    /// Compares exact numbers and multiples of π exactly, and everything else as doubles.
    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::PiTimes(a), Self::PiTimes(b)) => a.cmp(b),
            // π is irrational; its 120 decimals decide everything but numbers made to confuse them.
            (Self::Exact(a), Self::PiTimes(b)) => a.cmp(&(b * &*PI)),
            (Self::PiTimes(a), Self::Exact(b)) => (a * &*PI).cmp(b),
            (Self::Approximate(_), _) | (_, Self::Approximate(_)) => {
                let (a, b) = (self.to_f64_or_infinity(), other.to_f64_or_infinity());
                a.partial_cmp(&b).unwrap_or(Ordering::Equal)
            }
        }
    }

    /// What comparing these two costs.
    pub(crate) fn compare_cost(&self, other: &Self) -> u64 {
        match (self, other) {
            (Self::Exact(a) | Self::PiTimes(a), Self::Exact(b) | Self::PiTimes(b)) => crate::meter::cost(a, b),
            (Self::Exact(a) | Self::PiTimes(a), Self::Approximate(_))
            | (Self::Approximate(_), Self::Exact(a) | Self::PiTimes(a)) => crate::meter::cost(a, &PI),
            (Self::Approximate(_), Self::Approximate(_)) => 1,
        }
    }

    pub(crate) fn add(&self, other: &Self, meter: &mut Meter<'_>) -> Result<Self, Problem> {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => {
                meter.charge_for(a, b)?;
                Self::exact(a + b)
            }
            (Self::PiTimes(a), Self::PiTimes(b)) => {
                meter.charge_for(a, b)?;
                Self::multiple_of_pi(a + b)
            }
            (Self::PiTimes(_), Self::Exact(zero)) if zero.is_zero() => Ok(self.clone()),
            (Self::Exact(zero), Self::PiTimes(_)) if zero.is_zero() => Ok(other.clone()),
            _ => self.as_doubles(other, meter, |a, b| a + b),
        }
    }

    pub(crate) fn subtract(&self, other: &Self, meter: &mut Meter<'_>) -> Result<Self, Problem> {
        self.add(&other.clone().negate(), meter)
    }

    pub(crate) fn multiply(&self, other: &Self, meter: &mut Meter<'_>) -> Result<Self, Problem> {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => {
                meter.charge_for(a, b)?;
                Self::exact(a * b)
            }
            (Self::PiTimes(a), Self::Exact(b)) | (Self::Exact(a), Self::PiTimes(b)) => {
                meter.charge_for(a, b)?;
                Self::multiple_of_pi(a * b)
            }
            _ => self.as_doubles(other, meter, |a, b| a * b),
        }
    }

    pub(crate) fn divide(&self, other: &Self, meter: &mut Meter<'_>) -> Result<Self, Problem> {
        if other.is_zero() {
            return Err(division_by_zero());
        }
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::PiTimes(a), Self::PiTimes(b)) => {
                meter.charge_for(a, b)?;
                Self::exact(a / b)
            }
            (Self::PiTimes(a), Self::Exact(b)) => {
                meter.charge_for(a, b)?;
                Self::multiple_of_pi(a / b)
            }
            _ => self.as_doubles(other, meter, |a, b| a / b),
        }
    }

    /// The quotient rounded down, and what remains; the remainder has the sign of the divisor.
    pub(crate) fn floor_divide(&self, other: &Self, meter: &mut Meter<'_>) -> Result<(Self, Self), Problem> {
        if other.is_zero() {
            return Err(division_by_zero());
        }
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::PiTimes(a), Self::PiTimes(b)) => {
                // A quotient, its product with the divisor, and a difference.
                meter.charge(3 * crate::meter::cost(a, b))?;
                let quotient = (a / b).floor();
                let rest = a - b * RBig::from(quotient.clone());
                let rest =
                    if matches!(self, Self::PiTimes(_)) { Self::multiple_of_pi(rest)? } else { Self::exact(rest)? };
                Ok((Self::exact(RBig::from(quotient))?, rest))
            }
            _ => {
                let (a, b) = (self.to_f64()?, other.to_f64()?);
                meter.charge(1)?;
                let mut rest = a % b;
                if rest != 0.0 && (rest < 0.0) != (b < 0.0) {
                    rest += b;
                }
                let quotient = libm::round((a - rest) / b);
                if quotient.is_infinite() {
                    return Err(Problem::overflow());
                }
                Ok((Self::Exact(float_to_fraction(quotient)), Self::approximate(rest)?))
            }
        }
    }

    pub(crate) fn power(&self, exponent: &Self, meter: &mut Meter<'_>) -> Result<Self, Problem> {
        if self.is_zero() && exponent.is_negative() {
            let problem = Problem::new(ErrorKind::DivisionByZero, "zero has no negative power");
            return Err(problem.argument(0));
        }
        if let (Self::Exact(base), Some(power)) = (self, exponent.to_integer())
            && matches!(exponent, Self::Exact(_))
            && let Some(result) = integer_power(base, &power, meter)?
        {
            return Self::exact(result);
        }
        if let (Self::Exact(base), Self::Exact(power)) = (self, exponent)
            && let Some(result) = rational_power(base, power, meter)?
        {
            return Self::exact(result);
        }
        let (base, power) = (self.to_f64()?, exponent.to_f64()?);
        meter.charge(1 + self.compare_cost(exponent))?;
        if base < 0.0 && power.fract() != 0.0 {
            let problem = Problem::domain("a negative number has no real power with this exponent");
            return Err(problem.hint("for roots write `cbrt(x)` or `root(x, n)`"));
        }
        let direct = libm::pow(base, power);
        if base == 0.0 {
            return Self::approximate(direct);
        }
        // What the doubles lack of their exact numbers is little, but a large power makes much of it: interest
        // compounded daily for ten years would lose four digits.
        let logarithm = libm::log(base.abs());
        let lost = power * self.lost_as_double(base) + power * exponent.lost_as_double(power) * logarithm;
        if direct.is_normal() {
            return Self::approximate(direct * libm::exp(lost));
        }
        // Beyond the range of doubles only the sum of both says which side of the bound the power really lies on.
        Self::approximate(libm::copysign(libm::exp(power * logarithm + lost), direct))
    }

    /// By which part of itself this number is larger than the double that stands for it.
    fn lost_as_double(&self, double: f64) -> f64 {
        if double == 0.0 {
            return 0.0;
        }
        let exact = match self {
            Self::Exact(value) => value.clone(),
            Self::PiTimes(factor) => factor * &*PI,
            Self::Approximate(_) => return 0.0,
        };
        ((exact - float_to_fraction(double)).to_f64().value()) / double
    }

    /// The exact `degree`-th root, if there is one. The number is not negative, the degree not zero.
    pub(crate) fn exact_root(value: &RBig, degree: usize, meter: &mut Meter<'_>) -> Result<Option<RBig>, Problem> {
        // Newton's method doubles its digits in each round, and each takes a power and a quotient.
        let rounds = if degree <= 2 { 2 } else { 20 };
        meter.charge(rounds * crate::meter::cost(value, value))?;
        let Some(numerator) = integer_root(&value.numerator().unsigned_abs(), degree) else { return Ok(None) };
        let Some(denominator) = integer_root(value.denominator(), degree) else { return Ok(None) };
        Ok(Some(RBig::from_parts(IBig::from(numerator), denominator)))
    }

    pub(crate) fn map_double(&self, meter: &mut Meter<'_>, function: fn(f64) -> f64) -> Result<Self, Problem> {
        meter.charge(1)?;
        Self::approximate(function(self.to_f64()?))
    }

    fn multiple_of_pi(factor: RBig) -> Result<Self, Problem> {
        if factor.is_zero() {
            return Ok(Self::ZERO);
        }
        match Self::exact(factor)? {
            Self::Exact(factor) => Ok(Self::PiTimes(factor)),
            // The factor became a double, and so does the product.
            rounded => Self::approximate(rounded.to_f64()? * std::f64::consts::PI),
        }
    }

    fn as_doubles(&self, other: &Self, meter: &mut Meter<'_>, operation: fn(f64, f64) -> f64) -> Result<Self, Problem> {
        meter.charge(1)?;
        Self::approximate(operation(self.to_f64()?, other.to_f64()?))
    }
}

/// The exact value of a finite double.
pub(crate) fn float_to_fraction(value: f64) -> RBig {
    RBig::try_from(value).unwrap_or(RBig::ZERO)
}

/// A number as mantissa and power of two, `mantissa * 2^exponent`, for numbers beyond the range of doubles. The
/// exponent is even, and the mantissa between 1/4 and 4.
pub(crate) fn scaled(value: &RBig) -> (f64, i64) {
    let numerator = value.numerator().bit_len() as i64;
    let denominator = value.denominator().bit_len() as i64;
    let exponent = (numerator - denominator) & !1;
    let shift = UBig::ONE << exponent.unsigned_abs() as usize;
    let mantissa = if exponent < 0 { value * RBig::from(shift) } else { value / RBig::from(shift) };
    (mantissa.to_f64().value(), exponent)
}

fn division_by_zero() -> Problem {
    Problem::new(ErrorKind::DivisionByZero, "division by zero").argument(1)
}

fn small_fraction(numerator: i64, denominator: u64) -> RBig {
    RBig::from_parts(IBig::from(numerator), UBig::from(denominator))
}

/// An exact power, unless it would be so long that a double has to do.
fn integer_power(base: &RBig, power: &IBig, meter: &mut Meter<'_>) -> Result<Option<RBig>, Problem> {
    let odd = power.bit(0);
    let magnitude = base.clone().abs();
    if magnitude.is_one() || magnitude.is_zero() {
        // One and zero stay what they are, however large the exponent.
        let result = if power.is_zero() { RBig::ONE } else { magnitude };
        return Ok(Some(if base.sign() == Sign::Negative && odd { -result } else { result }));
    }
    let Ok(exponent) = usize::try_from(power.clone().unsigned_abs()) else { return Ok(None) };
    // The result has more than (bits - 1) * exponent bits, and at most twice as many.
    let bits = base.numerator().bit_len().max(base.denominator().bit_len());
    match (bits - 1).checked_mul(exponent) {
        Some(result_bits) if result_bits <= BITS_MAX => {
            let words = result_bits as u64 / 32 + 1;
            meter.charge(1 + words * words / 256)?;
        }
        _ => return Ok(None),
    }
    let numerator = base.numerator().pow(exponent);
    let denominator = base.denominator().pow(exponent);
    Ok(Some(if power.sign() == Sign::Negative {
        RBig::from_parts_signed(IBig::from(denominator), numerator)
    } else {
        RBig::from_parts(numerator, denominator)
    }))
}

/// `8^(2/3)` is 4: the root is taken exactly where there is one.
fn rational_power(base: &RBig, power: &RBig, meter: &mut Meter<'_>) -> Result<Option<RBig>, Problem> {
    if base.sign() == Sign::Negative {
        return Ok(None);
    }
    let Ok(degree) = usize::try_from(power.denominator().clone()) else { return Ok(None) };
    match Number::exact_root(base, degree, meter)? {
        Some(root) => integer_power(&root, power.numerator(), meter),
        None => Ok(None),
    }
}

/// The exact root of an integer, if there is one. Newton's method needs a good guess: from a poor one, a root of a high
/// degree takes as many rounds as the degree has units.
fn integer_root(value: &UBig, degree: usize) -> Option<UBig> {
    let bits = value.bit_len();
    let root = match degree {
        1 => return Some(value.clone()),
        2 => value.sqrt(),
        // A root of a degree beyond the length lies between 1 and 2.
        _ if bits <= degree => return (value.is_zero() || value.is_one()).then(|| value.clone()),
        _ => {
            let dropped = bits.saturating_sub(64);
            let leading = u64::try_from(value >> dropped).ok()?;
            let log2 = (libm::log2(leading as f64) + dropped as f64) / degree as f64;
            if log2 < SMALL_ROOT_BITS {
                // The estimate is within half of the only integer that it could be.
                UBig::from(libm::round(libm::exp2(log2)) as u64)
            } else {
                let shift = log2.floor() - SMALL_ROOT_BITS;
                // A little too large, so that each round comes down towards the root, until one no longer does.
                let estimate = (libm::exp2(log2 - shift) * ROOT_MARGIN) as u64 + 1;
                let mut guess = UBig::from(estimate) << shift as usize;
                loop {
                    let next = (&guess * (degree - 1) + value / guess.pow(degree - 1)) / degree;
                    if guess <= next {
                        break guess;
                    }
                    guess = next;
                }
            }
        }
    };
    (root.pow(degree) == *value).then_some(root)
}

/// Roots of fewer bits come out of doubles alone: a logarithm errs by less than 2^-40 of the root.
const SMALL_ROOT_BITS: f64 = 36.0;

/// More than a logarithm errs by, and little enough that Newton's method doubles the digits from the start.
const ROOT_MARGIN: f64 = 1.0 + 1.0 / (1u64 << 36) as f64;

#[cfg(test)]
mod tests {
    use super::*;

    /// Also where roots are long, degrees high, and the neighbours no powers.
    #[test]
    fn exact_roots_are_found_and_nothing_else() {
        let seeds = [2u64, 3, 10, 999_983, 1 << 35, (1 << 36) - 1, (1 << 36) + 1, u64::MAX];
        for (seed, degree) in seeds.into_iter().flat_map(|seed| (1..200).map(move |degree| (seed, degree))) {
            for root in [UBig::from(seed), UBig::from(seed).pow(7) + UBig::ONE] {
                let power = root.pow(degree);
                if power.bit_len() <= BITS_MAX {
                    assert_eq!(integer_root(&power, degree).as_ref(), Some(&root), "{root}^{degree}");
                    assert_eq!(
                        integer_root(&(&power + UBig::ONE), degree).is_some(),
                        degree == 1,
                        "{root}^{degree} + 1"
                    );
                    assert_eq!(
                        integer_root(&(&power - UBig::ONE), degree).is_some(),
                        degree == 1 || power == UBig::from(2u8)
                    );
                }
            }
        }
        assert_eq!(integer_root(&UBig::ONE, 1_000_000), Some(UBig::ONE));
        assert_eq!(integer_root(&UBig::ZERO, 5), Some(UBig::ZERO));
        assert_eq!(integer_root(&UBig::from(2u8), usize::MAX), None);
    }

    /// Machin's formula, with twenty decimals to spare.
    #[test]
    fn pi_is_pi() {
        let scale = IBig::from(10u8).pow(140);
        let arctangent_of_inverse = |divisor: u32| {
            let mut term = &scale / divisor;
            let mut sum = term.clone();
            let mut odd = 1u32;
            while !term.is_zero() {
                term /= divisor * divisor;
                odd += 2;
                let part = &term / odd;
                if odd % 4 == 3 { sum -= part } else { sum += part }
            }
            sum
        };
        let pi = (IBig::from(16) * arctangent_of_inverse(5) - IBig::from(4) * arctangent_of_inverse(239))
            / IBig::from(10u8).pow(20);
        assert_eq!(RBig::from_parts(pi, UBig::from(10u8).pow(120)), *PI);
    }

    #[test]
    fn doubles_of_multiples_of_pi_are_the_nearest() {
        let nearest = |numerator, denominator| Number::pi_times(numerator, denominator).to_f64().unwrap();
        assert_eq!(nearest(1, 1), std::f64::consts::PI);
        assert_eq!(nearest(2, 1), std::f64::consts::TAU);
        assert_eq!(nearest(1, 3), std::f64::consts::FRAC_PI_3);
        assert_eq!(nearest(-1, 6), -std::f64::consts::FRAC_PI_6);
    }

    #[test]
    fn numbers_beyond_doubles_are_scaled() {
        let huge = RBig::from(UBig::from(10u8).pow(2_000));
        for (value, log2) in [(huge.clone(), 6_643.856189774724), (RBig::ONE / huge, -6_643.856189774724)] {
            let (mantissa, exponent) = scaled(&value);
            assert!((0.25..=4.0).contains(&mantissa) && exponent % 2 == 0);
            assert!((libm::log2(mantissa) + exponent as f64 - log2).abs() < 1e-9);
        }
    }
}
