//! Walks a tree and computes its value.
//!
//! Every name is known before anything is computed, so that a typing error in a branch not taken is still found. Of a
//! conditional one branch is evaluated; `and` and `or` stop at the first operand that decides. A number is never a
//! boolean.

use std::collections::BTreeMap;

use crate::error::{ErrorKind, Problem, Span};
use crate::functions::{self, CONSTANTS};
use crate::functions::{double_factorial_of, factorial_of};
use crate::hint;
use crate::meter::Meter;
use crate::number::{Number, Value};
use crate::syntax::{BinaryOperator, NodeId, NodeKind, Tree, UnaryOperator};

/// The value of the last statement, and those of all variables that were assigned, in the order of their first
/// assignment.
pub(crate) struct Evaluated {
    pub(crate) value: Value,
    pub(crate) assigned: Vec<(String, Value)>,
}

pub(crate) fn evaluate(
    tree: &Tree,
    variables: BTreeMap<String, Value>,
    meter: &mut Meter<'_>,
) -> Result<Evaluated, Problem> {
    check_names(tree, &variables)?;
    let mut evaluator = Evaluator { tree, variables, meter };
    let mut assigned: Vec<String> = Vec::new();
    let mut result = None;
    for statement in tree.statements() {
        let value = evaluator.value(statement.root)?;
        if let Some(target) = &statement.target {
            evaluator.variables.insert(target.clone(), value.clone());
            if !assigned.contains(target) {
                assigned.push(target.clone());
            }
        }
        result = Some(value);
    }
    let variables = evaluator.variables;
    let assigned =
        assigned.into_iter().filter_map(|name| variables.get(&name).cloned().map(|value| (name, value))).collect();
    // The parser gives no tree without statements; an empty one would have been its error.
    let value = result.ok_or_else(|| Problem::new(ErrorKind::Empty, "the expression is empty"))?;
    Ok(Evaluated { value, assigned })
}

/// Finds names that stand for nothing where they are used. Nodes lie in the order of the source, statement by
/// statement.
fn check_names(tree: &Tree, variables: &BTreeMap<String, Value>) -> Result<(), Problem> {
    let mut assigned: Vec<&str> = Vec::new();
    let mut next = 0;
    for statement in tree.statements() {
        for node in &tree.nodes()[next..=statement.root.index()] {
            let NodeKind::Name(name) = &node.kind else { continue };
            let known = variables.contains_key(name)
                || assigned.contains(&name.as_str())
                || functions::constant(name).is_some();
            if !known {
                let candidates = variables.keys().map(String::as_str).chain(assigned.iter().copied());
                return Err(unknown_name(name, candidates).at(node.span));
            }
        }
        next = statement.root.index() + 1;
        assigned.extend(statement.target.as_deref());
    }
    Ok(())
}

fn unknown_name<'n>(name: &str, variables: impl Iterator<Item = &'n str>) -> Problem {
    let problem = Problem::new(ErrorKind::UnknownName, format!("`{name}` has no value"));
    if let Some(function) = functions::function(name) {
        return problem.hint(format!("`{name}` is a function; write `{}`", function.signature));
    }
    if ["inf", "infinity", "nan"].contains(&name.to_lowercase().as_str()) {
        return problem.hint("infinite and undefined values are errors here");
    }
    let constants = CONSTANTS.iter().flat_map(|constant| constant.names.iter().copied());
    match hint::nearest(name, variables.chain(constants)) {
        Some(nearest) => problem.hint(format!("did you mean `{nearest}`?")),
        None => problem.hint("assign it first, as in `x = 3; x^2`, or pass it as a variable"),
    }
}

struct Evaluator<'t, 'm, 'b> {
    tree: &'t Tree,
    variables: BTreeMap<String, Value>,
    meter: &'m mut Meter<'b>,
}

impl Evaluator<'_, '_, '_> {
    /// Loops down the left side of operators, where trees may be deep, and recurses elsewhere, where the parser
    /// counted.
    fn value(&mut self, id: NodeId) -> Result<Value, Problem> {
        let mut chain = Vec::new();
        let mut at = id;
        while let NodeKind::Binary { operator, left, right } = &self.tree.node(at).kind {
            chain.push((at, *operator, *left, *right));
            at = *left;
        }
        let mut value = self.other(at)?;
        for (whole, operator, left, right) in chain.into_iter().rev() {
            value = self.binary(whole, operator, (left, value), right)?;
        }
        Ok(value)
    }

    /// The value of a node that is no binary operator.
    fn other(&mut self, id: NodeId) -> Result<Value, Problem> {
        let node = self.tree.node(id);
        self.meter.charge(1).map_err(|problem| problem.at(node.span))?;
        match &node.kind {
            NodeKind::Number(literal) => Ok(Value::Number(Number::Exact(literal.value.clone()))),
            NodeKind::Boolean(value) => Ok(Value::Boolean(*value)),
            NodeKind::Name(name) => match self.variables.get(name) {
                Some(value) => Ok(value.clone()),
                None => functions::constant(name)
                    .map(Value::Number)
                    .ok_or_else(|| unknown_name(name, std::iter::empty()).at(node.span)),
            },
            NodeKind::Unary { operator, operand } => {
                let value = self.value(*operand)?;
                if *operator == UnaryOperator::Not {
                    return Ok(Value::Boolean(!self.boolean(value, *operand)?));
                }
                let number = self.number(value, *operand)?;
                let result = match operator {
                    UnaryOperator::Negate => Ok(number.negate()),
                    UnaryOperator::DoubleFactorial => double_factorial_of(&number, self.meter),
                    UnaryOperator::Factorial => factorial_of(&number, self.meter),
                    UnaryOperator::Plus | UnaryOperator::Not => Ok(number),
                };
                result.map(Value::Number).map_err(|problem| self.place(problem, node.span, &[*operand]))
            }
            NodeKind::Binary { .. } => self.value(id),
            NodeKind::Conditional { condition, then, otherwise } => {
                let value = self.value(*condition)?;
                let branch = if self.boolean(value, *condition)? { then } else { otherwise };
                self.value(*branch)
            }
            NodeKind::Call { function, arguments } => {
                let mut numbers = Vec::with_capacity(arguments.len());
                for argument in arguments {
                    let value = self.value(*argument)?;
                    numbers.push(self.number(value, *argument)?);
                }
                function.apply(&numbers, self.meter).map_err(|problem| self.place(problem, node.span, arguments))
            }
        }
    }

    fn binary(
        &mut self,
        whole: NodeId,
        operator: BinaryOperator,
        (left, value): (NodeId, Value),
        right: NodeId,
    ) -> Result<Value, Problem> {
        let span = self.tree.node(whole).span;
        if let BinaryOperator::And | BinaryOperator::Or = operator {
            let decides = operator == BinaryOperator::Or;
            if self.boolean(value, left)? == decides {
                return Ok(Value::Boolean(decides));
            }
            let value = self.value(right)?;
            return self.boolean(value, right).map(Value::Boolean);
        }
        let other = self.value(right)?;
        // Booleans are equal or not; everything else is for numbers.
        if let (Value::Boolean(a), BinaryOperator::Equal | BinaryOperator::NotEqual) = (&value, operator) {
            let b = self.boolean(other, right)?;
            return Ok(Value::Boolean((*a == b) == (operator == BinaryOperator::Equal)));
        }
        let (a, b) = (self.number(value, left)?, self.number(other, right)?);
        self.numbers(operator, &a, &b).map_err(|problem| self.place(problem, span, &[left, right]))
    }

    fn numbers(&mut self, operator: BinaryOperator, a: &Number, b: &Number) -> Result<Value, Problem> {
        let meter = &mut *self.meter;
        let result = match operator {
            BinaryOperator::Add => a.add(b, meter)?,
            BinaryOperator::Subtract => a.subtract(b, meter)?,
            BinaryOperator::Multiply => a.multiply(b, meter)?,
            BinaryOperator::Divide => a.divide(b, meter)?,
            BinaryOperator::FloorDivide => a.floor_divide(b, meter)?.0,
            BinaryOperator::Remainder => a.floor_divide(b, meter)?.1,
            BinaryOperator::Power => a.power(b, meter)?,
            BinaryOperator::Equal
            | BinaryOperator::NotEqual
            | BinaryOperator::Less
            | BinaryOperator::LessEqual
            | BinaryOperator::Greater
            | BinaryOperator::GreaterEqual
            | BinaryOperator::And
            | BinaryOperator::Or => {
                meter.charge(a.compare_cost(b))?;
                let order = a.compare(b);
                return Ok(Value::Boolean(match operator {
                    BinaryOperator::Equal => order.is_eq(),
                    BinaryOperator::NotEqual => order.is_ne(),
                    BinaryOperator::Less => order.is_lt(),
                    BinaryOperator::LessEqual => order.is_le(),
                    BinaryOperator::Greater => order.is_gt(),
                    _ => order.is_ge(),
                }));
            }
        };
        Ok(Value::Number(result))
    }

    fn number(&self, value: Value, id: NodeId) -> Result<Number, Problem> {
        match value {
            Value::Number(number) => Ok(number),
            Value::Boolean(value) => {
                let message = format!("a number is needed here, and this is `{value}`");
                Err(Problem::new(ErrorKind::TypeMismatch, message).at(self.tree.node(id).span))
            }
        }
    }

    fn boolean(&self, value: Value, id: NodeId) -> Result<bool, Problem> {
        match value {
            Value::Boolean(value) => Ok(value),
            Value::Number(_) => {
                let problem =
                    Problem::new(ErrorKind::TypeMismatch, "true or false is needed here, and this is a number");
                Err(problem.hint("write a comparison, such as `x != 0`").at(self.tree.node(id).span))
            }
        }
    }

    /// Gives a problem its place: the argument that it names, or the whole operation.
    fn place(&self, problem: Problem, whole: Span, arguments: &[NodeId]) -> Problem {
        if problem.span.is_some() {
            return problem;
        }
        let blamed = problem.argument.and_then(|index| arguments.get(index));
        let span = blamed.map_or(whole, |argument| self.tree.node(*argument).span);
        problem.at(span)
    }
}
