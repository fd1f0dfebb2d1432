//! The calculator as a plugin: actions around the engine in `lib`.
//!
//! Almost every expression is done within a fraction of a millisecond, so an evaluation begins where its call arrived.
//! Only one that turns out to be long goes to a thread of its own, where it asks now and then whether it is still wanted.

#![forbid(unsafe_code)]

mod messages;

use std::sync::Arc;

use calculator::{Budget, ErrorKind, EvalError, Request};
use messages::{
    Detailed, Evaluate, EvaluateMany, FunctionList, Item, ParseParams, Parsed, Scalar, Summary, too_many_expressions,
};
use palisade_sdk::{Action, Call, Error, Exit, Plugin, Result};

/// Steps that an evaluation may take between other calls: a millisecond at most.
const INLINE_STEPS: u64 = 1_000;

/// Threads for long evaluations; further ones wait for a thread.
const LONG_EVALUATIONS_MAX: usize = 4;

fn main() -> Exit {
    plugin().run()
}

fn plugin() -> Plugin {
    let evaluate_text = "Evaluates a mathematical expression and returns its value: `sqrt(16) + sin(pi/2)` is 5. \
                         Arithmetic is exact, so that `0.1 + 0.2` is 0.3; `^` is the power; variables are passed or \
                         assigned, as in `r = 2; pi * r^2`. Returns a number or a boolean, or digits as text where a \
                         double cannot hold them.";
    let explain_text = "Evaluates an expression like `evaluate`, and returns the value with its text, whether that is \
                        exact, the closed form of what was rounded (`1/3`, `pi/2`), and the variables that were assigned.";
    let many_text = "Evaluates many expressions and streams the value or the error of each. \
                     One that fails does not stop the others.";
    let parse_text = "Parses an expression without evaluating it, and returns its syntax tree as a list of nodes, \
                      children before their parents.";
    Plugin::new("calculator", env!("CARGO_PKG_VERSION"))
        .blocking_threads(LONG_EVALUATIONS_MAX)
        .with(Action::new("evaluate", evaluate_text).idempotent().handler(evaluate))
        .with(Action::new("explain", explain_text).idempotent().handler(explain))
        .with(Action::new("evaluate_many", many_text).idempotent().output::<Item>().blocking(evaluate_many))
        .with(Action::new("parse", parse_text).idempotent().handler(parse))
        .with(Action::new("functions", "Lists the functions and constants.").idempotent().handler(functions))
}

async fn evaluate(call: Call, params: Evaluate) -> Result<Scalar> {
    Ok(answer(call, params.into()).await?.result.value.into())
}

async fn explain(call: Call, params: Evaluate) -> Result<Detailed> {
    let expression = params.expression.clone();
    let answer = answer(call, params.into()).await?;
    let canonical = calculator::parse(&expression).map_err(messages::error)?.to_string();
    Ok(Detailed::new(answer, canonical))
}

async fn parse(_call: Call, params: ParseParams) -> Result<Parsed> {
    calculator::parse(&params.expression).map(|tree| Parsed::new(&tree)).map_err(messages::error)
}

async fn functions(_call: Call, (): ()) -> Result<FunctionList> {
    Ok(FunctionList::new())
}

/// Runs on a thread of its own, as the expressions together may take long.
fn evaluate_many(call: Call, params: EvaluateMany) -> Result<Summary> {
    let mut items = call.output::<Item>()?;
    let expressions = params.expressions.len();
    let mut failed = 0;
    let mut told = None;
    if let Some(error) = too_many_expressions(expressions) {
        return Err(error);
    }
    let variables = messages::inputs(params.variables);
    let cancelled = || call.is_cancelled();
    for (index, expression) in params.expressions.into_iter().enumerate() {
        // The first question is asked here, as an expression that is refused at once asks none.
        call.check()?;
        let request = Request { expression, variables: variables.clone(), precision: params.precision };
        let result = calculator::evaluate(&request, Budget::until(&cancelled));
        match &result {
            Err(error) if error.kind == ErrorKind::Cancelled => return Err(Error::cancelled()),
            Err(_) => failed += 1,
            Ok(_) => {}
        }
        items.blocking_send(Item::new(index, result))?;
        // News for every percent is enough, however many expressions there are.
        let percent = (index + 1) * 100 / expressions;
        if told != Some(percent) {
            told = Some(percent);
            call.progress(percent as f64, format!("{} of {expressions}", index + 1));
        }
    }
    Ok(Summary { evaluated: expressions, failed })
}

/// Evaluates here if that is quick, and else on a thread.
async fn answer(call: Call, request: Request) -> Result<calculator::Answer> {
    let budget = Budget { steps: INLINE_STEPS, ..Budget::default() };
    match calculator::evaluate(&request, budget) {
        Err(error) if error.kind == ErrorKind::TooManySteps => {}
        result => return result.map_err(messages::error),
    }
    let request = Arc::new(request);
    // Asking makes the call wait for this handler's own end when it is cancelled.
    call.check()?;
    let evaluation = tokio::task::spawn_blocking(move || {
        let cancelled = || call.is_cancelled();
        calculator::evaluate(&request, Budget::until(&cancelled))
    });
    let result: std::result::Result<_, EvalError> =
        evaluation.await.map_err(|error| Error::failed("the evaluation broke off").with_cause(error))?;
    result.map_err(messages::error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The manifest and the program are read separately; here they agree.
    #[test]
    fn the_manifest_describes_this_program() {
        let manifest: serde_json::Value = serde_json::from_str(include_str!("../plugin.json")).unwrap();
        let described = plugin().describe();
        assert_eq!(manifest["id"], described["id"]);
        assert_eq!(manifest["version"], described["version"]);
        assert_eq!(manifest["entry_point"], "calculator");
        let actions: Vec<&str> =
            described["actions"].as_array().unwrap().iter().map(|action| action["name"].as_str().unwrap()).collect();
        assert_eq!(actions, ["evaluate", "explain", "evaluate_many", "parse", "functions"]);
    }

    #[test]
    fn schemas_name_what_is_required_and_refuse_what_is_unknown() {
        let described = plugin().describe();
        let parameters = &described["actions"][0]["parameters"];
        assert_eq!(parameters["required"], serde_json::json!(["expression"]));
        assert_eq!(parameters["additionalProperties"], false);
        assert_eq!(parameters["properties"]["expression"]["type"], "string");
        assert_eq!(parameters["properties"]["precision"]["minimum"], 1);
        assert_eq!(parameters["properties"]["precision"]["maximum"], 100);
    }
}
