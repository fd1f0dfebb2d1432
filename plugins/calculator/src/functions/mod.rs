//! The functions and constants of the language.
//!
//! A function is data: its name, how many arguments it takes, a line of description, and a body over numbers. The
//! parser checks the count, so that bodies index their arguments freely. `if` is not among them: it evaluates one
//! branch only, and is part of the tree.

mod elementary;
mod integers;
mod statistics;
mod trigonometry;

pub(crate) use integers::{double_factorial_of, factorial_of};

use std::cmp::Ordering;
use std::fmt;

use dashu_int::IBig;

use crate::error::{ErrorKind, Problem};
use crate::limits::ARGUMENTS_MAX;
use crate::meter::Meter;
use crate::number::{Number, Value};
use crate::text::brief;

#[derive(Debug)]
pub struct Function {
    pub name: &'static str,
    pub arity: Arity,
    /// How a call is written: `atan2(y, x)`.
    pub signature: &'static str,
    pub description: &'static str,
    body: Body,
}

type NumberBody = fn(&[Number], &mut Meter<'_>) -> Result<Number, Problem>;
type BooleanBody = fn(&[Number], &mut Meter<'_>) -> Result<bool, Problem>;

#[derive(Debug)]
enum Body {
    Number(NumberBody),
    Boolean(BooleanBody),
}

impl Function {
    pub(crate) fn apply(&self, arguments: &[Number], meter: &mut Meter<'_>) -> Result<Value, Problem> {
        match self.body {
            Body::Number(body) => body(arguments, meter).map(Value::Number),
            Body::Boolean(body) => body(arguments, meter).map(Value::Boolean),
        }
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// How many arguments a function takes, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arity {
    pub min: usize,
    pub max: usize,
}

impl Arity {
    pub fn accepts(self, count: usize) -> bool {
        (self.min..=self.max).contains(&count)
    }
}

impl fmt::Display for Arity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count| if count == 1 { "" } else { "s" };
        match self {
            Self { min, max } if min == max => write!(f, "{min} argument{}", plural(*min)),
            Self { min, max: ARGUMENTS_MAX } => write!(f, "at least {min} argument{}", plural(*min)),
            Self { min, max } => write!(f, "{min} to {max} arguments"),
        }
    }
}

/// A named number.
#[derive(Debug)]
pub struct Constant {
    /// The first is the usual name.
    pub names: &'static [&'static str],
    pub description: &'static str,
    value: fn() -> Number,
}

pub const CONSTANTS: &[Constant] = &[
    Constant {
        names: &["pi", "π"],
        description: "the circumference of a circle of diameter 1",
        value: || Number::pi_times(1, 1),
    },
    Constant { names: &["tau", "τ"], description: "2 pi, a full turn in radians", value: || Number::pi_times(2, 1) },
    Constant {
        names: &["e"],
        description: "the base of the natural logarithm",
        value: || Number::Approximate(std::f64::consts::E),
    },
    Constant {
        names: &["phi", "φ"],
        description: "the golden ratio, (1 + sqrt(5)) / 2",
        value: || Number::Approximate(1.618_033_988_749_895),
    },
];

/// All functions, by subject.
pub fn functions() -> &'static [Function] {
    FUNCTIONS
}

pub(crate) fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

pub(crate) fn constant(name: &str) -> Option<Number> {
    CONSTANTS.iter().find(|constant| constant.names.contains(&name)).map(|constant| (constant.value)())
}

/// One entry of the table. The signature begins with the name.
const fn number(name: &'static str, min: usize, max: usize, texts: [&'static str; 2], body: NumberBody) -> Function {
    let [signature, description] = texts;
    Function { name, arity: Arity { min, max }, signature, description, body: Body::Number(body) }
}

const FUNCTIONS: &[Function] = &[
    number("abs", 1, 1, ["abs(x)", "x without its sign"], elementary::abs),
    number("sign", 1, 1, ["sign(x)", "-1, 0 or 1"], elementary::sign),
    number("floor", 1, 1, ["floor(x)", "the largest integer that is not above x"], elementary::floor),
    number("ceil", 1, 1, ["ceil(x)", "the smallest integer that is not below x"], elementary::ceil),
    number("trunc", 1, 1, ["trunc(x)", "x without its fraction"], elementary::trunc),
    number("fract", 1, 1, ["fract(x)", "x - trunc(x)"], elementary::fract),
    number(
        "round",
        1,
        2,
        ["round(x, decimals = 0)", "x to so many decimals, halves away from zero"],
        elementary::round,
    ),
    number("min", 1, ARGUMENTS_MAX, ["min(a, ...)", "the smallest"], elementary::min),
    number("max", 1, ARGUMENTS_MAX, ["max(a, ...)", "the largest"], elementary::max),
    number("clamp", 3, 3, ["clamp(x, low, high)", "x, or the end of the range that it lies beyond"], elementary::clamp),
    number("mod", 2, 2, ["mod(a, b)", "a % b: what a // b leaves, with the sign of b"], elementary::modulo),
    number("rem", 2, 2, ["rem(a, b)", "what trunc(a / b) leaves, with the sign of a"], elementary::remainder),
    number("sqrt", 1, 1, ["sqrt(x)", "the square root"], elementary::sqrt),
    number("cbrt", 1, 1, ["cbrt(x)", "the cube root, also of negative numbers"], elementary::cbrt),
    number("root", 2, 2, ["root(x, n)", "the n-th root; an odd one also of negative numbers"], elementary::root),
    number("pow", 2, 2, ["pow(x, y)", "x ^ y"], elementary::pow),
    number("hypot", 2, ARGUMENTS_MAX, ["hypot(a, b, ...)", "sqrt(a^2 + b^2 + ...)"], elementary::hypot),
    number("exp", 1, 1, ["exp(x)", "e ^ x"], elementary::exp),
    number("expm1", 1, 1, ["expm1(x)", "exp(x) - 1, precise near 0"], elementary::expm1),
    number("ln", 1, 1, ["ln(x)", "the natural logarithm"], elementary::ln),
    number("log", 1, 2, ["log(x, base = e)", "the logarithm, natural unless a base is given"], elementary::log),
    number("log2", 1, 1, ["log2(x)", "the logarithm to base 2"], elementary::log2),
    number("log10", 1, 1, ["log10(x)", "the logarithm to base 10"], elementary::log10),
    number("logb", 2, 2, ["logb(x, base)", "the logarithm to a base"], elementary::logb),
    number("log1p", 1, 1, ["log1p(x)", "ln(1 + x), precise near 0"], elementary::log1p),
    Function {
        name: "isclose",
        arity: Arity { min: 2, max: 3 },
        signature: "isclose(a, b, tolerance = 1e-9)",
        description: "whether a and b differ by at most the tolerance times the larger of them",
        body: Body::Boolean(elementary::isclose),
    },
    number("sin", 1, 1, ["sin(x)", "the sine of an angle in radians"], trigonometry::sin),
    number("cos", 1, 1, ["cos(x)", "the cosine"], trigonometry::cos),
    number("tan", 1, 1, ["tan(x)", "the tangent"], trigonometry::tan),
    number("sec", 1, 1, ["sec(x)", "1 / cos(x)"], trigonometry::sec),
    number("csc", 1, 1, ["csc(x)", "1 / sin(x)"], trigonometry::csc),
    number("cot", 1, 1, ["cot(x)", "1 / tan(x)"], trigonometry::cot),
    number("asin", 1, 1, ["asin(x)", "the angle from -pi/2 to pi/2 with this sine"], trigonometry::asin),
    number("acos", 1, 1, ["acos(x)", "the angle from 0 to pi with this cosine"], trigonometry::acos),
    number("atan", 1, 1, ["atan(x)", "the angle between -pi/2 and pi/2 with this tangent"], trigonometry::atan),
    number("atan2", 2, 2, ["atan2(y, x)", "the angle of the point (x, y), above -pi up to pi"], trigonometry::atan2),
    number("sinh", 1, 1, ["sinh(x)", "the hyperbolic sine"], trigonometry::sinh),
    number("cosh", 1, 1, ["cosh(x)", "the hyperbolic cosine"], trigonometry::cosh),
    number("tanh", 1, 1, ["tanh(x)", "the hyperbolic tangent"], trigonometry::tanh),
    number("asinh", 1, 1, ["asinh(x)", "the inverse of sinh"], trigonometry::asinh),
    number("acosh", 1, 1, ["acosh(x)", "the inverse of cosh, for x of at least 1"], trigonometry::acosh),
    number("atanh", 1, 1, ["atanh(x)", "the inverse of tanh, for x between -1 and 1"], trigonometry::atanh),
    number("deg", 1, 1, ["deg(x)", "radians to degrees"], trigonometry::deg),
    number("rad", 1, 1, ["rad(x)", "degrees to radians"], trigonometry::rad),
    number("factorial", 1, 1, ["factorial(n)", "n!"], integers::factorial),
    number("gamma", 1, 1, ["gamma(x)", "the gamma function, (x - 1)! for integers"], integers::gamma),
    number("lgamma", 1, 1, ["lgamma(x)", "ln(abs(gamma(x)))"], integers::lgamma),
    number("comb", 2, 2, ["comb(n, k)", "in how many ways k of n can be chosen"], integers::comb),
    number("perm", 2, 2, ["perm(n, k)", "in how many orders k of n can be chosen"], integers::perm),
    number("gcd", 1, ARGUMENTS_MAX, ["gcd(a, ...)", "the greatest common divisor of integers"], integers::gcd),
    number("lcm", 1, ARGUMENTS_MAX, ["lcm(a, ...)", "the least common multiple of integers"], integers::lcm),
    number("bitand", 2, 2, ["bitand(a, b)", "the bits that both integers have"], integers::bitand),
    number("bitor", 2, 2, ["bitor(a, b)", "the bits that either integer has"], integers::bitor),
    number("bitxor", 2, 2, ["bitxor(a, b)", "the bits that one of the integers has"], integers::bitxor),
    number("bitnot", 1, 1, ["bitnot(a)", "-a - 1"], integers::bitnot),
    number("shl", 2, 2, ["shl(a, n)", "a * 2^n"], integers::shl),
    number("shr", 2, 2, ["shr(a, n)", "a // 2^n"], integers::shr),
    number("erf", 1, 1, ["erf(x)", "the error function"], integers::erf),
    number("erfc", 1, 1, ["erfc(x)", "1 - erf(x), precise for large x"], integers::erfc),
    number("sum", 1, ARGUMENTS_MAX, ["sum(a, ...)", "all added"], statistics::sum),
    number("product", 1, ARGUMENTS_MAX, ["product(a, ...)", "all multiplied"], statistics::product),
    number("mean", 1, ARGUMENTS_MAX, ["mean(a, ...)", "the arithmetic mean"], statistics::mean),
    number("geomean", 1, ARGUMENTS_MAX, ["geomean(a, ...)", "the geometric mean"], statistics::geomean),
    number(
        "median",
        1,
        ARGUMENTS_MAX,
        ["median(a, ...)", "the middle value, or the mean of the middle two"],
        statistics::median,
    ),
    number(
        "variance",
        2,
        ARGUMENTS_MAX,
        ["variance(a, b, ...)", "of a sample: divided by n - 1"],
        statistics::variance,
    ),
    number("stddev", 2, ARGUMENTS_MAX, ["stddev(a, b, ...)", "sqrt(variance(a, b, ...))"], statistics::stddev),
    number(
        "pvariance",
        1,
        ARGUMENTS_MAX,
        ["pvariance(a, ...)", "of a population: divided by n"],
        statistics::pvariance,
    ),
    number("pstddev", 1, ARGUMENTS_MAX, ["pstddev(a, ...)", "sqrt(pvariance(a, ...))"], statistics::pstddev),
];

/// The integer that an argument has to be.
fn integer(arguments: &[Number], index: usize) -> Result<IBig, Problem> {
    let argument = &arguments[index];
    argument.to_integer().ok_or_else(|| {
        let message = format!("an integer is needed here, not {}", brief(argument));
        Problem::new(ErrorKind::IntegerRequired, message).argument(index)
    })
}

/// An argument that has to be an integer of a machine's size, for which `what` is a word.
fn small_integer(arguments: &[Number], index: usize, max: i64, what: &str) -> Result<i64, Problem> {
    match i64::try_from(integer(arguments, index)?) {
        Ok(value) if value.unsigned_abs() <= max.unsigned_abs() => Ok(value),
        _ => Err(Problem::domain(format!("the {what} is at most {max} in magnitude")).argument(index)),
    }
}

/// The first argument as a double, if it lies in a range.
fn double_between(arguments: &[Number], low: i64, high: i64, name: &str) -> Result<f64, Problem> {
    let x = &arguments[0];
    let inside =
        x.compare(&Number::integer(low)) != Ordering::Less && x.compare(&Number::integer(high)) != Ordering::Greater;
    if inside {
        return x.to_f64();
    }
    Err(Problem::domain(format!("{name} needs a number from {low} to {high}, not {}", brief(x))).argument(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_signatures_begin_with_them() {
        for (index, function) in FUNCTIONS.iter().enumerate() {
            assert!(FUNCTIONS[..index].iter().all(|other| other.name != function.name), "{}", function.name);
            assert!(function.signature.starts_with(&format!("{}(", function.name)), "{}", function.signature);
            assert!(constant(function.name).is_none());
        }
    }

    #[test]
    fn signatures_and_arities_agree() {
        for Function { name, arity, signature, .. } in FUNCTIONS {
            let inside = &signature[name.len() + 1..signature.len() - 1];
            let parameters: Vec<&str> = inside.split(", ").collect();
            let open = parameters.last() == Some(&"...");
            let optional = parameters.iter().filter(|parameter| parameter.contains('=')).count();
            let named = parameters.len() - usize::from(open);
            let expected = Arity { min: named - optional, max: if open { ARGUMENTS_MAX } else { named } };
            assert_eq!(*arity, expected, "{signature}");
        }
    }
}
