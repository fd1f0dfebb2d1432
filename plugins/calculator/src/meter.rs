//! Counts the work of one evaluation, and asks now and then whether its answer is still wanted.

use std::fmt;

use dashu_int::ops::BitTest;
use dashu_ratio::RBig;

use crate::error::{ErrorKind, Problem};
use crate::limits::{STEPS_BETWEEN_CHECKS, STEPS_MAX};

/// What one evaluation may cost.
#[derive(Clone, Copy)]
pub struct Budget<'b> {
    /// Steps of about a microsecond at most.
    pub steps: u64,
    /// Asked every millisecond or so; `true` ends the evaluation.
    pub cancelled: &'b dyn Fn() -> bool,
}

impl<'b> Budget<'b> {
    /// The usual steps, until `cancelled` says so.
    pub fn until(cancelled: &'b dyn Fn() -> bool) -> Self {
        Self { steps: STEPS_MAX, cancelled }
    }
}

impl Default for Budget<'_> {
    /// The usual steps, without a way to cancel.
    fn default() -> Self {
        Self::until(&|| false)
    }
}

impl fmt::Debug for Budget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("steps", &self.steps).finish_non_exhaustive()
    }
}

pub(crate) struct Meter<'b> {
    budget: Budget<'b>,
    used: u64,
    next_check: u64,
}

impl<'b> Meter<'b> {
    pub(crate) fn new(budget: Budget<'b>) -> Self {
        Self { budget, used: 0, next_check: 0 }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// Pays for work before it is done.
    pub(crate) fn charge(&mut self, steps: u64) -> Result<(), Problem> {
        self.used = self.used.saturating_add(steps);
        if self.next_check <= self.used {
            self.next_check = self.used.saturating_add(STEPS_BETWEEN_CHECKS);
            if (self.budget.cancelled)() {
                return Err(Problem::new(ErrorKind::Cancelled, "the evaluation was cancelled"));
            }
        }
        if self.budget.steps < self.used {
            let message = format!("the evaluation takes more than {} steps", self.budget.steps);
            return Err(Problem::new(ErrorKind::TooManySteps, message));
        }
        Ok(())
    }

    /// Pays for one operation on two exact numbers.
    pub(crate) fn charge_for(&mut self, a: &RBig, b: &RBig) -> Result<(), Problem> {
        self.charge(cost(a, b))
    }
}

/// Multiplication, division and reduction all grow with the product of the lengths.
pub(crate) fn cost(a: &RBig, b: &RBig) -> u64 {
    1 + words(a) * words(b) / WORD_PRODUCTS_PER_STEP
}

/// Products of machine words in one step; measured, with the reduction of fractions as the costliest case.
const WORD_PRODUCTS_PER_STEP: u64 = 256;

fn words(number: &RBig) -> u64 {
    let bits = number.numerator().bit_len() + number.denominator().bit_len();
    bits as u64 / 64 + 1
}
