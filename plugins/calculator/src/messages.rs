//! What the actions take and return, and how the engine's answers and errors become that.

use std::collections::BTreeMap;

use calculator::limits::EXPRESSION_BYTES_MAX;
use calculator::{
    Answer, CONSTANTS, Datum, ErrorKind, EvalError, Input, Node, NodeKind, Outcome, Request, Span, Tree, UnaryOperator,
};
use palisade_sdk::{Error, ErrorCode, Fault};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Expressions of one call of `evaluate_many`.
const EXPRESSIONS_MAX: usize = 10_000;

/// An expression and what it may refer to.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Evaluate {
    /// The expression, or several separated by `;` of which the last is the result. At most 10,000 bytes.
    pub(crate) expression: String,
    /// Values of variables, by name.
    #[serde(default)]
    pub(crate) variables: BTreeMap<String, Variable>,
    /// Significant digits of a result that is not an integer, from 1 to 100; 15 if absent. For a number of decimals,
    /// write `round(x, decimals)`.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    pub(crate) precision: Option<u32>,
}

/// Expressions that are evaluated one after the other, each on its own.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EvaluateMany {
    /// The expressions, at most 10,000 of at most 10,000 bytes each.
    #[schemars(length(max = 10_000))]
    pub(crate) expressions: Vec<String>,
    /// Values of variables, by name, for all of them.
    #[serde(default)]
    pub(crate) variables: BTreeMap<String, Variable>,
    /// Significant digits of results that are not integers, from 1 to 100; 15 if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    pub(crate) precision: Option<u32>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ParseParams {
    /// The expression. At most 10,000 bytes.
    pub(crate) expression: String,
}

/// The value of a variable. A number stands for the decimal that it is written as; digits that a double cannot hold are
/// passed as text.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Variable {
    Boolean(bool),
    Integer(i64),
    Large(u64),
    Number(f64),
    Text(String),
}

/// A value: a number or a boolean, or digits as text where a double cannot hold them.
#[derive(Serialize, JsonSchema, Debug, PartialEq)]
#[serde(untagged)]
pub(crate) enum Scalar {
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Text(String),
}

/// A value and how far to trust it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Trusted {
    value: Scalar,
    /// The value as text, rounded to the precision; an integer in full.
    text: String,
    /// Whether the text is the value itself and not a rounded form of it.
    exact: bool,
    /// The exact value of what had to be rounded, as an expression: `1/3`, `2*pi/3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_form: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Detailed {
    #[serde(flatten)]
    result: Trusted,
    /// The variables that the expression assigned.
    assigned: BTreeMap<String, Trusted>,
    /// The expression as it was understood, without needless parentheses.
    canonical: String,
    /// The work that it took, of at most 1,000,000 steps.
    steps: u64,
}

/// One value, or one error, of `evaluate_many`.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Item {
    /// The expression's place in the list, from 0.
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Scalar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Explained>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Summary {
    /// How many expressions there were.
    pub(crate) evaluated: usize,
    /// How many of them have no value.
    pub(crate) failed: usize,
}

/// What is wrong with an expression, and where.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Explained {
    /// The kind of the error, such as `division_by_zero`.
    kind: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(flatten)]
    place: Option<Place>,
}

#[derive(Serialize, JsonSchema)]
struct Place {
    /// Where it begins, in bytes of the expression.
    offset: usize,
    /// How many bytes it has.
    length: usize,
    /// The expression, or the part around the place, and below it carets.
    excerpt: String,
}

/// A syntax tree, as a list: a tree of messages would be nested more deeply than many decoders allow.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Parsed {
    /// The expression without needless parentheses.
    canonical: String,
    statements: Vec<ParsedStatement>,
    /// Children come before their parents.
    nodes: Vec<ParsedNode>,
}

#[derive(Serialize, JsonSchema)]
struct ParsedStatement {
    /// The variable that is assigned.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// The index of the statement's topmost node.
    root: usize,
}

#[derive(Serialize, JsonSchema)]
struct ParsedNode {
    /// `number`, `boolean`, `name`, `unary`, `binary`, `conditional` or `call`.
    kind: &'static str,
    /// The number or name as it was written, the operator, or the function.
    text: String,
    /// The indices of the operands or arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    children: Vec<usize>,
    /// Where it begins, in bytes of the expression.
    offset: usize,
    /// How many bytes it has, with the parentheses around it.
    length: usize,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct FunctionList {
    functions: Vec<FunctionInfo>,
    constants: Vec<ConstantInfo>,
}

#[derive(Serialize, JsonSchema)]
struct FunctionInfo {
    name: &'static str,
    /// How a call is written.
    signature: &'static str,
    description: &'static str,
    /// The least and the greatest number of arguments.
    arguments: [usize; 2],
}

#[derive(Serialize, JsonSchema)]
struct ConstantInfo {
    /// All its names, the usual one first.
    names: &'static [&'static str],
    description: &'static str,
}

impl From<Evaluate> for Request {
    fn from(params: Evaluate) -> Self {
        Self { expression: params.expression, variables: inputs(params.variables), precision: params.precision }
    }
}

pub(crate) fn inputs(variables: BTreeMap<String, Variable>) -> BTreeMap<String, Input> {
    let input = |variable| match variable {
        Variable::Boolean(value) => Input::Boolean(value),
        Variable::Integer(value) => Input::Integer(value.into()),
        Variable::Large(value) => Input::Integer(value.into()),
        Variable::Number(value) => Input::Number(value),
        Variable::Text(digits) => Input::Text(digits),
    };
    variables.into_iter().map(|(name, variable)| (name, input(variable))).collect()
}

/// Why a call of `evaluate_many` is refused as a whole.
pub(crate) fn too_many_expressions(count: usize) -> Option<Error> {
    let message = || format!("a call takes at most {EXPRESSIONS_MAX} expressions, not {count}");
    (EXPRESSIONS_MAX < count).then(|| Error::invalid_params(message()).with_hint("send them in several calls"))
}

/// An error of the engine as one of the taxonomy. What is wrong with the text is `invalid_params`; what comes up in
/// computing is `execution_failed`, though the fault is the caller's as well.
pub(crate) fn error(error: EvalError) -> Error {
    let code = match error.kind {
        ErrorKind::Cancelled => return Error::cancelled(),
        ErrorKind::TooManySteps => ErrorCode::ResourceExhausted,
        ErrorKind::TypeMismatch
        | ErrorKind::IntegerRequired
        | ErrorKind::DivisionByZero
        | ErrorKind::Overflow
        | ErrorKind::FactorialTooLarge
        | ErrorKind::Domain => ErrorCode::ExecutionFailed,
        ErrorKind::Empty
        | ErrorKind::TooLong
        | ErrorKind::TooDeep
        | ErrorKind::TooManyStatements
        | ErrorKind::TooManyArguments
        | ErrorKind::NameTooLong
        | ErrorKind::StrayCharacter
        | ErrorKind::BadNumber
        | ErrorKind::NumberTooLarge
        | ErrorKind::UnclosedParenthesis
        | ErrorKind::UnmatchedParenthesis
        | ErrorKind::ExpectedOperand
        | ErrorKind::ExpectedOperator
        | ErrorKind::MissingColon
        | ErrorKind::UnexpectedToken
        | ErrorKind::ChainedComparison
        | ErrorKind::BadAssignment
        | ErrorKind::ReservedName
        | ErrorKind::UnknownName
        | ErrorKind::UnknownFunction
        | ErrorKind::WrongArgumentCount
        | ErrorKind::BadVariable
        | ErrorKind::BadPrecision => ErrorCode::InvalidParams,
    };
    let place = if error.excerpt.is_empty() { String::new() } else { format!("\n{}", error.excerpt) };
    let wrong = Error::new(code, format!("{}{place}", error.message)).with_fault(Fault::Caller);
    let wrong = match &error.hint {
        Some(hint) => wrong.with_hint(hint.as_str()),
        None => wrong,
    };
    wrong.with_details(Explained::from(error))
}

impl From<EvalError> for Explained {
    fn from(error: EvalError) -> Self {
        let EvalError { kind, span, message, hint, excerpt } = error;
        let place = span.map(|Span { offset, length }| Place { offset, length, excerpt });
        Self { kind: kind.name(), message, hint, place }
    }
}

impl From<Datum> for Scalar {
    fn from(datum: Datum) -> Self {
        match datum {
            Datum::Boolean(value) => Self::Boolean(value),
            Datum::Integer(value) => Self::Integer(value),
            Datum::Number(value) => Self::Number(value),
            Datum::Text(digits) => Self::Text(digits),
        }
    }
}

impl From<Outcome> for Trusted {
    fn from(outcome: Outcome) -> Self {
        let Outcome { value, text, exact, closed_form } = outcome;
        Self { value: value.into(), text, exact, closed_form }
    }
}

impl Detailed {
    pub(crate) fn new(answer: Answer, canonical: String) -> Self {
        let Answer { result, assigned, steps } = answer;
        let assigned = assigned.into_iter().map(|(name, outcome)| (name, outcome.into())).collect();
        Self { result: result.into(), assigned, canonical, steps }
    }
}

impl Item {
    pub(crate) fn new(index: usize, result: Result<Answer, EvalError>) -> Self {
        let (value, error) = match result {
            Ok(answer) => (Some(answer.result.value.into()), None),
            Err(error) => (None, Some(error.into())),
        };
        Self { index, value, error }
    }
}

impl Parsed {
    pub(crate) fn new(tree: &Tree) -> Self {
        let statements = tree.statements().iter();
        Self {
            canonical: tree.to_string(),
            statements: statements
                .map(|statement| ParsedStatement { target: statement.target.clone(), root: statement.root.index() })
                .collect(),
            nodes: tree.nodes().iter().map(ParsedNode::new).collect(),
        }
    }
}

impl ParsedNode {
    fn new(node: &Node) -> Self {
        let (kind, text, children) = match &node.kind {
            NodeKind::Number(literal) => ("number", literal.text.clone(), vec![]),
            NodeKind::Boolean(value) => ("boolean", value.to_string(), vec![]),
            NodeKind::Name(name) => ("name", name.clone(), vec![]),
            NodeKind::Unary { operator, operand } => ("unary", symbol(*operator), vec![*operand]),
            NodeKind::Binary { operator, left, right } => ("binary", operator.symbol().to_owned(), vec![*left, *right]),
            NodeKind::Conditional { condition, then, otherwise } => {
                ("conditional", "?:".to_owned(), vec![*condition, *then, *otherwise])
            }
            NodeKind::Call { function, arguments } => ("call", function.name.to_owned(), arguments.clone()),
        };
        let children = children.into_iter().map(|child| child.index()).collect();
        Self { kind, text, children, offset: node.span.offset, length: node.span.length }
    }
}

fn symbol(operator: UnaryOperator) -> String {
    operator.symbol().to_owned()
}

impl FunctionList {
    pub(crate) fn new() -> Self {
        let functions = calculator::functions().iter().map(|function| FunctionInfo {
            name: function.name,
            signature: function.signature,
            description: function.description,
            arguments: [function.arity.min, function.arity.max],
        });
        // Not a function of the engine, as it evaluates one branch only; for who writes expressions it is one.
        let conditional = FunctionInfo {
            name: "if",
            signature: "if(condition, value, other)",
            description: "one of two values; also written `condition ? value : other`",
            arguments: [3, 3],
        };
        let constants =
            CONSTANTS.iter().map(|constant| ConstantInfo { names: constant.names, description: constant.description });
        Self { functions: functions.chain([conditional]).collect(), constants: constants.collect() }
    }
}

/// The descriptions above name this bound in digits.
const _: () = assert!(EXPRESSION_BYTES_MAX == 10_000);

#[cfg(test)]
mod tests {
    use calculator::{Budget, evaluate, parse};
    use serde_json::{Value, json};

    use super::*;

    fn result(params: Value) -> Result<Answer, EvalError> {
        let params: Evaluate = serde_json::from_value(params).unwrap();
        evaluate(&params.into(), Budget::default())
    }

    fn data(value: impl Serialize) -> Value {
        serde_json::to_value(value).unwrap()
    }

    #[test]
    fn a_result_is_the_bare_value() {
        let value =
            |expression: &str| data(Scalar::from(result(json!({ "expression": expression })).unwrap().result.value));
        assert_eq!(value("sqrt(16) + sin(pi/2)"), json!(5));
        assert_eq!(value("0.1 + 0.2"), json!(0.3));
        assert_eq!(value("1 < 2"), json!(true));
        assert_eq!(value("2^100"), json!("1267650600228229401496703205376"));
    }

    #[test]
    fn variables_are_whatever_json_has_for_them() {
        let variables = json!({ "b": true, "i": -3, "u": u64::MAX, "f": 0.1, "t": "123456789012345678901" });
        let text =
            |expression: &str| result(json!({ "expression": expression, "variables": variables })).unwrap().result.text;
        assert_eq!(text("b ? i : 0"), "-3");
        assert_eq!(text("u"), "18446744073709551615");
        assert_eq!(text("f * 3"), "0.3");
        assert_eq!(text("t + 1"), "123456789012345678902");
        assert!(serde_json::from_value::<Evaluate>(json!({ "expression": "1", "variable": {} })).is_err());
        assert!(serde_json::from_value::<Evaluate>(json!({ "expression": "1", "variables": { "x": [] } })).is_err());
    }

    #[test]
    fn errors_name_the_place_for_people_and_programs() {
        let wrong = error(result(json!({ "expression": "1 / (2 - 2)" })).unwrap_err());
        assert_eq!(wrong.code(), ErrorCode::ExecutionFailed);
        assert_eq!(wrong.message(), "division by zero\n1 / (2 - 2)\n    ^^^^^^^");
        let body = wrong.into_body();
        assert_eq!(body.fault, Fault::Caller);
        let details = body.details.unwrap();
        assert_eq!(
            details,
            json!({
                "kind": "division_by_zero",
                "message": "division by zero",
                "offset": 4,
                "length": 7,
                "excerpt": "1 / (2 - 2)\n    ^^^^^^^",
            })
        );
        let wrong = error(result(json!({ "expression": "sqr(4)" })).unwrap_err());
        assert_eq!((wrong.code(), wrong.hint()), (ErrorCode::InvalidParams, Some("did you mean `sqrt`?")));
        let wrong = error(result(json!({ "expression": "1", "precision": 0 })).unwrap_err());
        assert_eq!(wrong.code(), ErrorCode::InvalidParams);
        assert_eq!(wrong.message(), "the precision is from 1 to 100 digits, not 0");
        let request = Request::new("1 + 1");
        let wrong = error(evaluate(&request, Budget { steps: 1, ..Budget::default() }).unwrap_err());
        assert_eq!(wrong.code(), ErrorCode::ResourceExhausted);
        let wrong = error(evaluate(&request, Budget::until(&|| true)).unwrap_err());
        assert_eq!(wrong.code(), ErrorCode::Cancelled);
    }

    #[test]
    fn explanations_hold_everything_that_is_known() {
        let answer = result(json!({ "expression": "x = 1; (x) / 3" })).unwrap();
        let steps = answer.steps;
        assert_eq!(
            data(Detailed::new(answer, "x = 1; x / 3".to_owned())),
            json!({
                "value": 0.333333333333333,
                "text": "0.333333333333333",
                "exact": false,
                "closed_form": "1/3",
                "assigned": { "x": { "value": 1, "text": "1", "exact": true } },
                "canonical": "x = 1; x / 3",
                "steps": steps,
            })
        );
    }

    #[test]
    fn items_are_a_value_or_an_error() {
        let item = |expression: &str| data(Item::new(3, result(json!({ "expression": expression }))));
        assert_eq!(item("1 + 1"), json!({ "index": 3, "value": 2 }));
        let failed = item("1 +");
        assert_eq!((&failed["index"], &failed["error"]["kind"]), (&json!(3), &json!("expected_operand")));
        assert_eq!((&failed["value"], &failed["error"]["offset"]), (&Value::Null, &json!(3)));
        assert!(too_many_expressions(EXPRESSIONS_MAX).is_none());
        assert_eq!(too_many_expressions(EXPRESSIONS_MAX + 1).unwrap().code(), ErrorCode::InvalidParams);
    }

    #[test]
    fn trees_are_lists() {
        assert_eq!(
            data(Parsed::new(&parse("y = -x^2").unwrap())),
            json!({
                "canonical": "y = -x^2",
                "statements": [{ "target": "y", "root": 3 }],
                "nodes": [
                    { "kind": "name", "text": "x", "offset": 5, "length": 1 },
                    { "kind": "number", "text": "2", "offset": 7, "length": 1 },
                    { "kind": "binary", "text": "^", "children": [0, 1], "offset": 5, "length": 3 },
                    { "kind": "unary", "text": "-", "children": [2], "offset": 4, "length": 4 },
                ],
            })
        );
    }

    /// A receiver that builds a tree takes 131,072 values; the largest expression stays below that.
    #[test]
    fn the_largest_tree_is_still_taken() {
        fn values(value: &Value) -> usize {
            match value {
                Value::Array(items) => 1 + items.iter().map(values).sum::<usize>(),
                Value::Object(fields) => 1 + fields.values().map(|value| 1 + values(value)).sum::<usize>(),
                _ => 1,
            }
        }
        let chain = format!("1{}", "+1".repeat(EXPRESSION_BYTES_MAX / 2 - 1));
        let factorials = format!("{}1", "sum(".repeat(100)) + &"-1".repeat(4_700) + &")".repeat(100);
        for expression in [chain, factorials] {
            let values = values(&data(Parsed::new(&parse(&expression).unwrap())));
            assert!(values < 131_072, "{values}");
        }
    }

    #[test]
    fn the_list_of_functions_is_complete() {
        let list = data(FunctionList::new());
        let functions = list["functions"].as_array().unwrap();
        assert_eq!(functions.len(), calculator::functions().len() + 1);
        assert!(functions.iter().any(|function| function["signature"] == "atan2(y, x)"));
        assert_eq!(list["constants"][0]["names"], json!(["pi", "π"]));
    }
}
