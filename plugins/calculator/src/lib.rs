//! The engine of the calculator: expressions in, numbers or errors out.
//!
//! An expression is parsed into a tree and the tree is walked; nothing is ever run as code. Numbers are exact as long
//! as they can be (see `number`), every bound has a name (see [`limits`]), and every error names its place.
//!
//! ```text
//! statements    x = 3; y = x^2; y + 1                       the last one is the result
//! numbers       12  1_000  1.5  .5  1e-3  0xff  0o17  0b101
//! operators     from the loosest to the tightest:
//!               c ? a : b   or ||   and &&   not   == != < <= > >=   + -   * / // %   - + !   ^ **   n! n!!
//! calls         sqrt(2)  max(1, 2, 3)  if(x > 0, x, -x)
//! constants     pi tau e phi
//! ```
//!
//! `^` and `**` are powers, from the right, and bind more tightly than a sign: `-2^2` is -4. `//` rounds the quotient
//! down and `%` is what remains, with the sign of the divisor. Multiplication is never implied. Comparisons are not
//! chained. Booleans are not numbers. Infinite and undefined results are errors.
//!
//! Elsewhere: actions, parameters and streams are the plugin's shell, in `main`.

#![forbid(unsafe_code)]

mod error;
mod evaluator;
mod functions;
mod hint;
pub mod limits;
mod meter;
mod number;
mod parser;
mod syntax;
mod text;
mod token;

use std::collections::BTreeMap;

pub use error::{ErrorKind, EvalError, Span};
pub use functions::{Arity, CONSTANTS, Constant, Function, functions};
pub use meter::Budget;
use meter::Meter;
use number::{Number, Value};
pub use syntax::{BinaryOperator, Literal, Node, NodeId, NodeKind, Statement, Tree, UnaryOperator};
pub use text::{Datum, Outcome};

use error::Problem;
use limits::{EXPRESSION_BYTES_MAX, PRECISION_DEFAULT, PRECISION_MAX, VARIABLES_MAX};

/// What to evaluate.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub expression: String,
    pub variables: BTreeMap<String, Input>,
    /// Significant digits of a result that is not an integer; [`limits::PRECISION_DEFAULT`] if absent.
    pub precision: Option<u32>,
}

impl Request {
    pub fn new(expression: impl Into<String>) -> Self {
        Self { expression: expression.into(), ..Self::default() }
    }
}

/// The value of a variable.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    Boolean(bool),
    Integer(i128),
    /// Stands for the shortest decimal that denotes it: 0.1 is one tenth.
    Number(f64),
    /// A number as it would be written in an expression, with a sign if need be: for digits that a double cannot hold.
    Text(String),
}

/// The value of an expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub result: Outcome,
    /// The variables that the expression assigned, in the order of their first assignment.
    pub assigned: Vec<(String, Outcome)>,
    /// What it cost.
    pub steps: u64,
}

/// Evaluates an expression within a budget.
pub fn evaluate(request: &Request, budget: Budget<'_>) -> Result<Answer, EvalError> {
    answer(request, budget).map_err(|problem| EvalError::new(problem, &request.expression))
}

/// Parses an expression without evaluating it. Names of variables are not looked up.
pub fn parse(expression: &str) -> Result<Tree, EvalError> {
    parser::parse(expression).map_err(|problem| EvalError::new(problem, expression))
}

fn answer(request: &Request, budget: Budget<'_>) -> Result<Answer, Problem> {
    let precision = request.precision.unwrap_or(PRECISION_DEFAULT);
    if !(1..=PRECISION_MAX).contains(&precision) {
        let message = format!("the precision is from 1 to {PRECISION_MAX} digits, not {precision}");
        return Err(Problem::new(ErrorKind::BadPrecision, message));
    }
    let variables = variables(&request.variables)?;
    let tree = parser::parse(&request.expression)?;
    let mut meter = Meter::new(budget);
    let evaluated = evaluator::evaluate(&tree, variables, &mut meter)?;
    let outcome = |value: &Value| match value {
        Value::Boolean(value) => Outcome::boolean(*value),
        Value::Number(number) => Outcome::number(number, precision),
    };
    let assigned = evaluated.assigned.iter().map(|(name, value)| (name.clone(), outcome(value))).collect();
    Ok(Answer { result: outcome(&evaluated.value), assigned, steps: meter.used() })
}

fn variables(inputs: &BTreeMap<String, Input>) -> Result<BTreeMap<String, Value>, Problem> {
    let bad = |message: String| Problem::new(ErrorKind::BadVariable, message);
    if VARIABLES_MAX < inputs.len() {
        return Err(bad(format!("there are at most {VARIABLES_MAX} variables, not {}", inputs.len())));
    }
    let mut variables = BTreeMap::new();
    for (name, input) in inputs {
        if !token::is_name(name) {
            let shown: String = name.chars().take(limits::NAME_BYTES_MAX).collect();
            return Err(bad(format!("`{}` cannot be the name of a variable", shown.escape_debug())));
        }
        if parser::is_reserved(name) {
            return Err(bad(format!("`{name}` is part of the language and cannot be a variable")));
        }
        let value = match input {
            Input::Boolean(value) => Value::Boolean(*value),
            Input::Integer(value) => Value::Number(Number::integer(*value)),
            Input::Number(value) if !value.is_finite() => {
                return Err(bad(format!("the variable `{name}` is not a finite number")));
            }
            Input::Number(value) => Value::Number(Number::Exact(text::shortest_decimal(*value))),
            Input::Text(digits) if EXPRESSION_BYTES_MAX < digits.len() => {
                return Err(bad(format!("the variable `{name}` has more than {EXPRESSION_BYTES_MAX} bytes")));
            }
            Input::Text(digits) => match token::signed_number(digits) {
                Ok(value) => Value::Number(Number::Exact(value)),
                Err(problem) => return Err(bad(format!("the variable `{name}`: {}", problem.message))),
            },
        };
        variables.insert(name.clone(), value);
    }
    Ok(variables)
}
