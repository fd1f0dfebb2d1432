//! Functions of many numbers. Of exact numbers all but the roots are exact.

use super::elementary::{exp, ln, square_root};
use crate::error::{ErrorKind, Problem};
use crate::meter::Meter;
use crate::number::Number;
use crate::text::brief;

type Result = std::result::Result<Number, Problem>;

pub(super) fn sum(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    arguments.iter().try_fold(Number::ZERO, |sum, argument| sum.add(argument, meter))
}

pub(super) fn product(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    arguments.iter().try_fold(Number::integer(1), |product, argument| product.multiply(argument, meter))
}

pub(super) fn mean(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    sum(arguments, meter)?.divide(&Number::integer(arguments.len()), meter)
}

/// Through logarithms, unless the root of the product is exact: the product alone may be too large.
pub(super) fn geomean(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    for (index, argument) in arguments.iter().enumerate() {
        if argument.is_negative() {
            let message = format!("the geometric mean needs numbers that are not negative, not {}", brief(argument));
            return Err(Problem::domain(message).argument(index));
        }
    }
    if arguments.iter().any(Number::is_zero) {
        return Ok(Number::ZERO);
    }
    match product(arguments, meter) {
        Ok(Number::Exact(product)) => {
            if let Some(root) = Number::exact_root(&product, arguments.len(), meter)? {
                return Number::exact(root);
            }
        }
        Err(problem) if problem.kind != ErrorKind::Overflow => return Err(problem),
        Ok(Number::PiTimes(_) | Number::Approximate(_)) | Err(_) => {}
    }
    let mut logarithms = Number::ZERO;
    for argument in arguments {
        logarithms = logarithms.add(&ln(std::slice::from_ref(argument), meter)?, meter)?;
    }
    exp(&[logarithms.divide(&Number::integer(arguments.len()), meter)?], meter)
}

pub(super) fn median(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    // A sort of n compares each number some log2(n) times, and cannot stop for an empty budget.
    let rounds = u64::from(arguments.len().ilog2() + 1);
    for pair in arguments.windows(2) {
        meter.charge(rounds * pair[0].compare_cost(&pair[1]).max(pair[0].compare_cost(&pair[0])))?;
    }
    let mut sorted: Vec<&Number> = arguments.iter().collect();
    sorted.sort_by(|a, b| a.compare(b));
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        return Ok(sorted[middle].clone());
    }
    sorted[middle - 1].add(sorted[middle], meter)?.divide(&Number::integer(2), meter)
}

pub(super) fn variance(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    squared_deviations(arguments, meter)?.divide(&Number::integer(arguments.len() - 1), meter)
}

pub(super) fn stddev(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    square_root(&variance(arguments, meter)?, meter)
}

pub(super) fn pvariance(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    squared_deviations(arguments, meter)?.divide(&Number::integer(arguments.len()), meter)
}

pub(super) fn pstddev(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    square_root(&pvariance(arguments, meter)?, meter)
}

fn squared_deviations(arguments: &[Number], meter: &mut Meter<'_>) -> Result {
    let mean = mean(arguments, meter)?;
    arguments.iter().try_fold(Number::ZERO, |sum, argument| {
        let deviation = argument.subtract(&mean, meter)?;
        sum.add(&deviation.multiply(&deviation, meter)?, meter)
    })
}
