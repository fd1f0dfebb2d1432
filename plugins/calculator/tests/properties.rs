//! What holds for every expression: no panic, bounded work, a tree that survives being written and read again, and the
//! laws of arithmetic.

use calculator::limits::EXPRESSION_BYTES_MAX;
use calculator::{Budget, Outcome, Request, evaluate, parse};
use proptest::prelude::*;

fn value(expression: &str) -> Option<Outcome> {
    evaluate(&Request::new(expression), Budget::default()).ok().map(|answer| answer.result)
}

/// Pieces of which random text becomes something that is almost an expression.
const PIECES: &[&str] = &[
    "1", "2.5", "0x1f", "1e3", "x", "pi", "sin", "max", "if", "not", "and", "or", "true", "(", ")", ",", ";", "+", "-",
    "*", "/", "//", "%", "^", "**", "!", "!!", "=", "==", "!=", "<", "<=", "?", ":", " ", "\n", "_", ".", "e", "é",
    "🦀", "$", "∞", "(1", "sqrt(", "x = 2;", "! ", "1000", "--",
];

fn almost_an_expression() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(PIECES), 0..40).prop_map(|pieces| pieces.concat())
}

/// Well-formed expressions with needless parentheses, odd spacing and every operator.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (0u32..1_000).prop_map(|number| number.to_string()),
        (0u32..1_000, 0u32..100).prop_map(|(whole, part)| format!("{whole}.{part}")),
        prop::sample::select(vec!["x", "größe", "pi", "true", "0xff", "1_0e-2", ".5", "7."]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(6, 64, 4, |inner| {
        let operator = prop::sample::select(vec![
            "+", "-", "*", "/", "//", "%", "^", "**", "==", "!=", "<", "<=", ">", ">=", " and ", " or ", "&&", "||",
        ]);
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, operator, b)| format!("({a}){operator}({b})")),
            (inner.clone(), prop::sample::select(vec!["+", "-", "*", "^"]), inner.clone())
                .prop_map(|(a, operator, b)| format!("{a} {operator} {b}")),
            (prop::sample::select(vec!["-", "+", "!", "not "]), inner.clone())
                .prop_map(|(sign, a)| format!("({sign}{a})")),
            (inner.clone(), prop::sample::select(vec!["!", "!!", " ! !"])).prop_map(|(a, sign)| format!("({a}){sign}")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a}) ? {b} : {c}")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("if({a}, {b}, {c})")),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|list| format!("max({})", list.join(", "))),
            inner.prop_map(|a| format!("sqrt( ({a}) )")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn any_text_has_a_value_or_an_error_with_a_place(text in any::<String>()) {
        check_any(&text)?;
    }

    #[test]
    fn almost_every_expression_has_a_value_or_an_error_with_a_place(text in almost_an_expression()) {
        check_any(&text)?;
    }

    #[test]
    fn a_tree_that_is_written_and_read_again_is_the_same(text in expression()) {
        if let Ok(tree) = parse(&text) {
            let written = tree.to_string();
            let again = parse(&written).map_err(|error| TestCaseError::fail(format!("{text} became {written}: {error}")))?;
            prop_assert_eq!(&again, &tree, "{} became {}", text, written);
            // Written twice is written once: the text of a tree is canonical.
            prop_assert_eq!(again.to_string(), written);
        }
    }

    #[test]
    fn what_is_read_again_has_the_same_value(text in expression()) {
        let text = format!("x = 3; größe = 1/7; {text}");
        if let Ok(tree) = parse(&text) {
            prop_assert_eq!(value(&tree.to_string()), value(&text), "{} became {}", text, tree);
        }
    }

    #[test]
    fn exact_numbers_keep_the_laws_of_arithmetic(a in -9_999i64..9_999, b in 1i64..9_999, c in -9_999i64..9_999) {
        for law in [
            format!("({a}) / {b} * {b} == {a}"),
            format!("(({a}) / {b} + ({c})) - ({c}) == ({a}) / {b}"),
            format!("(({a}) + ({c})) * {b} == ({a}) * {b} + ({c}) * {b}"),
            format!("({a}) // {b} * {b} + ({a}) % {b} == ({a})"),
            format!("0 <= ({a}) % {b} and ({a}) % {b} < {b}"),
            format!("-{b} < ({a}) % -{b} and ({a}) % -{b} <= 0"),
            format!("sqrt(({a})^2) == abs({a})"),
            format!("cbrt(({a})^3) == ({a})"),
            format!("floor(({a}) / {b}) <= ({a}) / {b} and ({a}) / {b} < floor(({a}) / {b}) + 1"),
            format!("ceil(({a}) / {b}) == -floor(-({a}) / {b})"),
            format!("gcd({a}, {b}) * lcm({a}, {b}) == abs({a}) * {b}"),
            format!("bitand({a}, {c}) + bitor({a}, {c}) == ({a}) + ({c})"),
            format!("mean({a}, {c}) * 2 == sum({a}, {c})"),
            format!("logb({b} ^ 7, {b} + 1) < 7"),
        ] {
            prop_assert_eq!(value(&law).map(|outcome| outcome.text), Some("true".to_owned()), "{}", law);
        }
    }

    #[test]
    fn functions_of_doubles_keep_their_identities(a in 0.001f64..50.0) {
        for law in [
            format!("isclose(sin({a})^2 + cos({a})^2, 1, 1e-14)"),
            format!("isclose(tan({a}) * cos({a}), sin({a}), 1e-12)"),
            format!("isclose(exp(ln({a})), {a}, 1e-13)"),
            format!("isclose(sqrt({a})^2, {a}, 1e-14)"),
            format!("isclose(cosh({a})^2, 1 + sinh({a})^2, 1e-12)"),
            format!("isclose(gamma({a} + 1), {a} * gamma({a}), 1e-12)"),
            format!("isclose(atan({a}) + atan(1 / {a}), pi / 2, 1e-14)"),
            format!("isclose(deg(rad({a})), {a}, 1e-14)"),
            format!("isclose({a}^0.3 * {a}^0.7, {a}, 1e-13)"),
            format!("isclose(asinh(sinh({a})), {a}, 1e-12)"),
            format!("isclose(erf({a}) + erfc({a}), 1, 1e-14)"),
        ] {
            prop_assert_eq!(value(&law).map(|outcome| outcome.text), Some("true".to_owned()), "{}", law);
        }
    }

    /// Whatever the precision, the text denotes the number to within half of its last digit.
    #[test]
    fn text_is_rounded_correctly(numerator in any::<i64>(), denominator in 1u64.., precision in 1u32..100) {
        let request = Request { precision: Some(precision), ..Request::new(format!("{numerator} / {denominator}")) };
        let text = evaluate(&request, Budget::default()).unwrap().result.text;
        let last_digit = 1 - i64::from(precision);
        let law = format!("2 * abs(({text}) - ({numerator}) / {denominator}) <= abs({text}) * 10^({last_digit})");
        prop_assert_eq!(value(&law).map(|outcome| outcome.text), Some("true".to_owned()), "{}", law);
    }
}

fn check_any(text: &str) -> Result<(), TestCaseError> {
    let budget = Budget { steps: 100_000, ..Budget::default() };
    match evaluate(&Request::new(text), budget) {
        Ok(answer) => prop_assert!(answer.steps <= budget.steps),
        Err(error) => {
            let span = error.span;
            prop_assert!(span.is_some(), "{}", error);
            let place = span.and_then(|span| text.get(span.offset..span.offset + span.length));
            prop_assert!(place.is_some(), "{} at {:?}", error, span);
            prop_assert_eq!(error.excerpt.lines().count(), 2);
        }
    }
    if let Ok(tree) = parse(text) {
        let written = tree.to_string();
        if written.len() <= EXPRESSION_BYTES_MAX {
            prop_assert_eq!(parse(&written).ok(), Some(tree), "{} became {}", text, written);
        }
    }
    Ok(())
}
