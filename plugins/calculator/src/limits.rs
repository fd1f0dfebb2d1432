//! The bounds of the engine, each with the reason for its size.
//!
//! Together they make every evaluation finite and cheap: the length bounds the tree (each node owns at least one byte
//! of the expression), the nesting bounds the stack, the digits bound one operation, and the steps bound their sum.

/// Bytes of one expression. It also bounds the nodes of the tree: every node owns at least one byte of its own.
pub const EXPRESSION_BYTES_MAX: usize = 10_000;

/// Levels of parentheses and of operands within operands. The parser and all walks over the tree recurse once a level,
/// which stays far below the smallest stack that a thread is given.
pub const NESTING_MAX: usize = 200;

/// Statements separated by `;`. Each may leave a number of [`DIGITS_MAX`] digits in the answer.
pub const STATEMENTS_MAX: usize = 100;

/// Bytes of one name.
pub const NAME_BYTES_MAX: usize = 64;

/// Variables passed along with an expression.
pub const VARIABLES_MAX: usize = 256;

/// Arguments of one call.
pub const ARGUMENTS_MAX: usize = 1_000;

/// Decimal digits of an exact numerator or denominator; 1000! has 2,568.
pub const DIGITS_MAX: usize = 3_000;

/// [`DIGITS_MAX`] in bits, rounded up.
pub(crate) const BITS_MAX: usize = 9_966;

/// The largest argument of a factorial.
pub const FACTORIAL_MAX: u64 = 1_000;

/// Significant digits of a result's text. π is known here to a little more than that.
pub const PRECISION_MAX: u32 = 100;

/// The precision of a request that names none: every decimal of 15 digits survives a double.
pub const PRECISION_DEFAULT: u32 = 15;

/// Work that one evaluation may do, in steps of about a microsecond at most.
pub const STEPS_MAX: u64 = 1_000_000;

/// Steps between two questions whether the evaluation is still wanted: every millisecond or so.
pub(crate) const STEPS_BETWEEN_CHECKS: u64 = 1_000;
