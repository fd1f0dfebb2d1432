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
        let request = Request { expression, variables: variables.clone(), precision: params.precision };
        let result = calculator::evaluate(&request, Budget::until(&cancelled));
        if result.is_err() {
            failed += 1;
        }
        // Of a cancelled call nothing more is taken, so that this also ends the loop.
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
    use palisade_sdk::ErrorCode;
    use palisade_sdk::testing::{Outcome, TestHost};
    use serde_json::{Value, json};

    use super::*;

    /// Takes more steps than there are: hundreds of milliseconds, unless it is cancelled.
    fn long() -> String {
        ["comb(9900, 4950)"; 100].join(" + ")
    }

    async fn host() -> TestHost {
        TestHost::start(plugin()).await.unwrap()
    }

    /// The manifest and the program are read separately; here they agree.
    #[test]
    fn the_manifest_describes_this_program() {
        let manifest: Value = serde_json::from_str(include_str!("../plugin.json")).unwrap();
        let described = plugin().describe();
        assert_eq!(manifest["id"], described["id"]);
        assert_eq!(manifest["version"], described["version"]);
        assert_eq!(manifest["entry_point"], env!("CARGO_PKG_NAME"));
        let actions: Vec<&str> =
            described["actions"].as_array().unwrap().iter().map(|action| action["name"].as_str().unwrap()).collect();
        assert_eq!(actions, ["evaluate", "explain", "evaluate_many", "parse", "functions"]);
    }

    #[test]
    fn schemas_name_what_is_required_and_refuse_what_is_unknown() {
        let described = plugin().describe();
        let parameters = &described["actions"][0]["parameters"];
        assert_eq!(parameters["required"], json!(["expression"]));
        assert_eq!(parameters["additionalProperties"], false);
        assert_eq!(parameters["properties"]["expression"]["type"], "string");
        assert_eq!(parameters["properties"]["precision"]["minimum"], 1);
        assert_eq!(parameters["properties"]["precision"]["maximum"], 100);
    }

    #[tokio::test]
    async fn evaluate_returns_the_bare_value() {
        let host = host().await;
        let evaluate = async |params: Value| host.call::<Value>("evaluate", &params).await;
        assert_eq!(evaluate(json!({ "expression": "sqrt(16) + sin(pi/2)" })).await, Ok(json!(5)));
        let params = json!({ "expression": "a * b", "variables": { "a": 0.1, "b": 3 } });
        assert_eq!(evaluate(params).await, Ok(json!(0.3)));
        assert_eq!(evaluate(json!({ "expression": "e", "precision": 2 })).await, Ok(json!(2.7)));
        assert_eq!(evaluate(json!({ "expression": "1 < 2" })).await, Ok(json!(true)));

        let error = evaluate(json!({ "expression": "1 / 0" })).await.unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (ErrorCode::ExecutionFailed, "division by zero\n1 / 0\n    ^")
        );
        assert_eq!(error.details.unwrap()["kind"], "division_by_zero");
        let error = evaluate(json!({ "expression": "2 * (3" })).await.unwrap_err();
        assert_eq!((error.code, &error.details.unwrap()["offset"]), (ErrorCode::InvalidParams, &json!(4)));
        for wrong in [json!({}), json!({ "expression": 5 }), json!({ "expression": "1", "precison": 3 })] {
            assert_eq!(evaluate(wrong).await.unwrap_err().code, ErrorCode::InvalidParams);
        }
        assert_eq!(host.violations(), Vec::<String>::new());
        assert_eq!(host.stop().await.status(), 0);
    }

    #[tokio::test]
    async fn the_other_actions_answer() {
        let host = host().await;
        let details: Value = host.call("explain", &json!({ "expression": "x = (1); x/3" })).await.unwrap();
        assert_eq!(details["closed_form"], "1/3");
        assert_eq!(details["canonical"], "x = 1; x / 3");
        assert_eq!(details["assigned"]["x"]["value"], 1);
        let tree: Value = host.call("parse", &json!({ "expression": "1 + x" })).await.unwrap();
        assert_eq!(
            tree["nodes"][2],
            json!({ "kind": "binary", "text": "+", "children": [0, 1], "offset": 0, "length": 5 })
        );
        let list: Value = host.call("functions", &()).await.unwrap();
        assert!(30 < list["functions"].as_array().unwrap().len());
        assert_eq!(host.stop().await.status(), 0);
    }

    #[tokio::test]
    async fn many_expressions_are_streamed_with_their_errors() {
        let host = host().await;
        let params = json!({ "expressions": ["1 + x", "1 / 0", "2 *", "x^2"], "variables": { "x": 3 } });
        let call = host.begin("evaluate_many", &params);
        let mut items = Vec::new();
        while let Some(item) = call.next::<Value>().await.unwrap() {
            items.push(item);
        }
        let kinds: Vec<&Value> = items.iter().map(|item| &item["error"]["kind"]).collect();
        assert_eq!(items[0], json!({ "index": 0, "value": 4 }));
        assert_eq!(items[3], json!({ "index": 3, "value": 9 }));
        assert_eq!(kinds, [&Value::Null, &json!("division_by_zero"), &json!("expected_operand"), &Value::Null]);
        assert_eq!(call.result::<Value>().await.unwrap(), json!({ "evaluated": 4, "failed": 2 }));

        let none: Value = host.call("evaluate_many", &json!({ "expressions": [] })).await.unwrap();
        assert_eq!(none, json!({ "evaluated": 0, "failed": 0 }));
        let too_many = json!({ "expressions": vec!["1"; 10_001] });
        let error = host.call::<Value>("evaluate_many", &too_many).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidParams);
        assert_eq!(host.stop().await.status(), 0);
    }

    /// What a reader has not taken yet holds the handler back, so that its progress is seen before its end.
    #[tokio::test]
    async fn many_expressions_tell_how_far_they_have_come() {
        let host = host().await;
        let call = host.begin("evaluate_many", &json!({ "expressions": vec!["10^2999"; 1_000] }));
        let progress = call.progress().await.unwrap().unwrap();
        let percentage = progress.percentage.unwrap();
        assert!((0.0..100.0).contains(&percentage), "{percentage}");
        let done: usize = progress.message.unwrap().strip_suffix(" of 1000").unwrap().parse().unwrap();
        assert_eq!(done / 10, percentage as usize);
        let mut items = 0;
        while call.next::<Value>().await.unwrap().is_some() {
            items += 1;
            if items == 500 {
                let later = call.progress().await.unwrap().unwrap().percentage.unwrap();
                assert!(percentage < later, "{percentage} {later}");
            }
        }
        assert_eq!(items, 1_000);
        assert_eq!(call.result::<Value>().await.unwrap(), json!({ "evaluated": 1_000, "failed": 0 }));
        assert_eq!(host.stop().await.status(), 0);
    }

    #[tokio::test]
    async fn a_long_evaluation_leaves_room_for_others_and_ends_by_its_budget() {
        let host = host().await;
        let long = host.begin("evaluate", &json!({ "expression": long() }));
        assert_eq!(host.call::<Value>("evaluate", &json!({ "expression": "1 + 1" })).await, Ok(json!(2)));
        host.ping(true).await.unwrap();
        assert_eq!(long.result::<Value>().await.unwrap_err().code, ErrorCode::ResourceExhausted);
        assert_eq!(host.stop().await.status(), 0);
    }

    #[tokio::test]
    async fn evaluations_can_be_cancelled() {
        let host = host().await;
        let one = host.begin("evaluate", &json!({ "expression": long() }));
        one.cancel();
        assert_eq!(one.outcome().await.unwrap(), Outcome::Cancelled);

        let many = host.begin("evaluate_many", &json!({ "expressions": vec![long(); 10_000] }));
        assert!(many.next::<Value>().await.unwrap().is_some());
        many.cancel();
        assert_eq!(many.outcome().await.unwrap(), Outcome::Cancelled);
        assert_eq!(host.violations(), Vec::<String>::new());
        assert_eq!(host.stop().await.status(), 0);
    }
}
