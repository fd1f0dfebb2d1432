//! Everything that can be wrong with an expression: the exact kind, and the exact place.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use calculator::ErrorKind::{self, *};
use calculator::limits::{
    ARGUMENTS_MAX, DIGITS_MAX, EXPRESSION_BYTES_MAX, FACTORIAL_MAX, NAME_BYTES_MAX, NESTING_MAX, PRECISION_MAX,
    STATEMENTS_MAX, VARIABLES_MAX,
};
use calculator::{Budget, EvalError, Input, Request, Span, evaluate};

fn error(expression: &str) -> EvalError {
    match evaluate(&Request::new(expression), Budget::default()) {
        Ok(answer) => panic!("{expression} gives {}", answer.result.text),
        Err(error) => error,
    }
}

/// Expressions and the kind of their error. Its place stands between « and », which are not part of the expression.
const TABLE: &[(&str, ErrorKind)] = &[
    ("«»", Empty),
    ("  \n«»", Empty),
    // Characters and numbers.
    ("1 + «$»", StrayCharacter),
    ("2 «@» 3", StrayCharacter),
    ("«[»1]", StrayCharacter),
    ("1 «&» 2", StrayCharacter),
    ("1 «|» 2", StrayCharacter),
    ("«~»1", StrayCharacter),
    ("«'»a'", StrayCharacter),
    ("π + 2 + «∞»", StrayCharacter),
    ("«√»4", StrayCharacter),
    ("1 + «\u{0}»", StrayCharacter),
    ("π + «🦀»", StrayCharacter),
    ("«.»", StrayCharacter),
    ("x«.»y", StrayCharacter),
    ("«1.2.3»", BadNumber),
    ("1 + «1..2»", BadNumber),
    ("«0x»", BadNumber),
    ("«0xfg»", BadNumber),
    ("«0b12» + 1", BadNumber),
    ("«0o8»", BadNumber),
    ("«0x_1»", BadNumber),
    ("«0b1é»", BadNumber),
    ("«1__0»", BadNumber),
    ("«1_» + 2", BadNumber),
    ("«1._5»", BadNumber),
    ("«1e5_»", BadNumber),
    ("2 * «1e9999»", NumberTooLarge),
    ("«1e-9999»", NumberTooLarge),
    ("«1e99999999999999999999999999»", NumberTooLarge),
    ("«1e3000»", NumberTooLarge),
    // Parentheses.
    ("«(»1 + 2", UnclosedParenthesis),
    ("2 * «(»1 + 2; 3", UnclosedParenthesis),
    ("((1) + «(»2", UnclosedParenthesis),
    ("sin«(»1", UnclosedParenthesis),
    ("max«(»1, 2", UnclosedParenthesis),
    ("1 + 2«)»", UnmatchedParenthesis),
    ("(1)«)» + 1", UnmatchedParenthesis),
    ("max(1, 2)«)»", UnmatchedParenthesis),
    // Operands and operators.
    ("1 +«»", ExpectedOperand),
    ("1 + «*» 2", ExpectedOperand),
    ("«*» 2", ExpectedOperand),
    ("(«)»", ExpectedOperand),
    ("1 + («)» * 2", ExpectedOperand),
    ("(1 +«»", ExpectedOperand),
    ("sin(1, «)»", ExpectedOperand),
    ("max(«,» 1)", ExpectedOperand),
    ("1;«;» 2", ExpectedOperand),
    ("«;»", ExpectedOperand),
    ("50%«»", ExpectedOperand),
    ("1 <«»", ExpectedOperand),
    ("1 < «=» 2", ExpectedOperand),
    ("-«»", ExpectedOperand),
    ("x =«»", ExpectedOperand),
    ("true ? 1 :«»", ExpectedOperand),
    ("true ? «:» 1", ExpectedOperand),
    ("1 and «or» 2", ExpectedOperand),
    ("1 «2»", ExpectedOperator),
    ("2«pi»", ExpectedOperator),
    ("2«(»3)", ExpectedOperator),
    ("(1)«(»2)", ExpectedOperator),
    ("1«e»", ExpectedOperator),
    ("pi «e»", ExpectedOperator),
    ("(1 «2»)", ExpectedOperator),
    ("max(1 «2»)", ExpectedOperator),
    ("5!«3»", ExpectedOperator),
    ("1 «not» true", ExpectedOperator),
    ("true ? 1 «2» : 3", ExpectedOperator),
    ("true «?» 1", MissingColon),
    ("(true «?» 1)", MissingColon),
    ("1«,» 2", UnexpectedToken),
    ("1 «:» 2", UnexpectedToken),
    ("(1«,» 2)", UnexpectedToken),
    ("max(1 «:» 2)", UnexpectedToken),
    ("1 «!==» 2", UnexpectedToken),
    ("1 «===» 2", UnexpectedToken),
    ("3!!«!»", UnexpectedToken),
    ("1 + «not» true", UnexpectedToken),
    ("-«not» true", UnexpectedToken),
    ("«if» true", UnexpectedToken),
    ("1 < 2 «<» 3", ChainedComparison),
    ("1 == 1 «==» true", ChainedComparison),
    ("1 < 2 + 3 «>=» 4", ChainedComparison),
    // Names.
    ("1 «=» 2", BadAssignment),
    ("x + 1 «=» 2", BadAssignment),
    ("x = y «=» 2", BadAssignment),
    ("if(x «=» 1, 2, 3)", BadAssignment),
    ("(x «=» 1)", BadAssignment),
    ("max(1, 2) «=» 2", BadAssignment),
    ("«pi» = 3", ReservedName),
    ("«π» = 3", ReservedName),
    ("x = 1; «e» = 2", ReservedName),
    ("«true» = 1", ReservedName),
    ("«and» = 1", ReservedName),
    ("«if» = 1", ReservedName),
    ("1 + «foo»", UnknownName),
    ("«inf»", UnknownName),
    ("«x»; x = 1", UnknownName),
    ("x = «x» + 1", UnknownName),
    ("true ? 1 : «y»", UnknownName),
    ("false and «y»", UnknownName),
    ("2 * «sin»", UnknownName),
    ("1 + «foo»(2)", UnknownFunction),
    ("x = 1; «x»(2)", UnknownFunction),
    ("«pi»(2)", UnknownFunction),
    ("«SIN»(1)", UnknownFunction),
    ("1 + «sin()»", WrongArgumentCount),
    ("«sin(1, 2)»", WrongArgumentCount),
    ("2 * «atan2(1)»", WrongArgumentCount),
    ("«max()»", WrongArgumentCount),
    ("«round(1, 2, 3)»", WrongArgumentCount),
    ("«if(true, 1)»", WrongArgumentCount),
    ("«variance(1)»", WrongArgumentCount),
    // Types.
    ("1 + «true»", TypeMismatch),
    ("«true» + 1", TypeMismatch),
    ("-«true»", TypeMismatch),
    ("«(1 < 2)» * 3", TypeMismatch),
    ("sin(«true»)", TypeMismatch),
    ("«1» and true", TypeMismatch),
    ("true and «1»", TypeMismatch),
    ("not «1»", TypeMismatch),
    ("!«5»", TypeMismatch),
    ("«1» ? 2 : 3", TypeMismatch),
    ("true == «1»", TypeMismatch),
    ("«true» < false", TypeMismatch),
    ("1 == «true»", TypeMismatch),
    ("«true»!", TypeMismatch),
    // Arithmetic.
    ("1 / «0»", DivisionByZero),
    ("1 / «(2 - 2)»", DivisionByZero),
    ("1 // «0»", DivisionByZero),
    ("1 % «0.0»", DivisionByZero),
    ("1 / «sin(0)»", DivisionByZero),
    ("1 / «(e - e)»", DivisionByZero),
    ("e % «(e - e)»", DivisionByZero),
    ("pi / «(pi - pi)»", DivisionByZero),
    ("mod(1, «0»)", DivisionByZero),
    ("rem(1, «0»)", DivisionByZero),
    ("«0»^-1", DivisionByZero),
    ("«0» ^ -0.5", DivisionByZero),
    ("root(«0», -2)", DivisionByZero),
    ("1 + «10^4000»", Overflow),
    ("«2^1e9»", Overflow),
    ("«2^(10^100)»", Overflow),
    ("«1.5^1e9»", Overflow),
    ("«1e2999 * 1e2999»", Overflow),
    ("«exp(1000)»", Overflow),
    ("«cosh(1000)»", Overflow),
    ("«gamma(172.5)»", Overflow),
    ("«sin(10^400)»", Overflow),
    ("«10^400 + e»", Overflow),
    ("«exp(700) * exp(700)»", Overflow),
    ("«comb(10^6, 5 * 10^5)»", Overflow),
    ("«perm(10^6, 10^6)»", Overflow),
    ("«lcm(10^2000, 3^4000)»", Overflow),
    ("«shl(1, 9966)»", Overflow),
    ("«(1e2999)»!", FactorialTooLarge),
    ("«(2^0.5 * 1e308) * 10»", Overflow),
    ("«1001»!", FactorialTooLarge),
    ("2 ^ «1e9»!", FactorialTooLarge),
    ("«1001»!!", FactorialTooLarge),
    ("factorial(«5000»)", FactorialTooLarge),
    ("«2.5»!", IntegerRequired),
    ("«pi»!", IntegerRequired),
    ("gcd(4, «2.5»)", IntegerRequired),
    ("lcm(«1/2», 3)", IntegerRequired),
    ("comb(«2.5», 1)", IntegerRequired),
    ("bitand(1, «e»)", IntegerRequired),
    ("bitnot(«0.5»)", IntegerRequired),
    ("root(2, «0.5»)", IntegerRequired),
    ("round(1, «0.5»)", IntegerRequired),
    ("shl(1, «0.5»)", IntegerRequired),
    // Domains.
    ("«(-1)»!", Domain),
    ("sqrt(«-1»)", Domain),
    ("1 + sqrt(«2 - 3»)", Domain),
    ("ln(«0»)", Domain),
    ("log(«0»)", Domain),
    ("log(«-1»)", Domain),
    ("log2(«0»)", Domain),
    ("log10(«-5»)", Domain),
    ("logb(2, «1»)", Domain),
    ("logb(2, «0»)", Domain),
    ("logb(«-2», 2)", Domain),
    ("log(8, «-2»)", Domain),
    ("log1p(«-1»)", Domain),
    ("asin(«2»)", Domain),
    ("acos(«-1.0001»)", Domain),
    ("acosh(«0.5»)", Domain),
    ("atanh(«1»)", Domain),
    ("«atan2(0, 0)»", Domain),
    ("tan(«pi/2»)", Domain),
    ("tan(«-3*pi/2»)", Domain),
    ("sec(«pi/2»)", Domain),
    ("csc(«0»)", Domain),
    ("cot(«pi»)", Domain),
    ("gamma(«0»)", Domain),
    ("gamma(«-3»)", Domain),
    ("lgamma(«-1»)", Domain),
    ("root(«-16», 4)", Domain),
    ("root(16, «0»)", Domain),
    ("root(2, «10^10»)", Domain),
    ("round(1, «2000»)", Domain),
    ("«(-8) ^ (1/3)»", Domain),
    ("«(-e) ^ 0.5»", Domain),
    ("clamp(1, «3», 2)", Domain),
    ("comb(«-5», 2)", Domain),
    ("perm(5, «-1»)", Domain),
    ("geomean(1, «-2»)", Domain),
    ("isclose(1, 2, «-1»)", Domain),
    ("shl(1, «-1»)", Domain),
    ("shl(1, «10^6»)", Domain),
];

#[test]
fn every_error_has_its_kind_and_names_its_place() {
    let mut wrong = Vec::new();
    for (marked, kind) in TABLE {
        let offset = marked.find('«').unwrap();
        let end = marked.find('»').unwrap() - '«'.len_utf8();
        let expression = marked.replace(['«', '»'], "");
        let expected = (*kind, Some(Span { offset, length: end - offset }));
        match evaluate(&Request::new(&expression), Budget::default()) {
            Ok(answer) => wrong.push(format!("{marked}  gives {}", answer.result.text)),
            Err(error) if (error.kind, error.span) == expected => {
                assert_eq!(error.excerpt.lines().count(), 2, "{marked}: {}", error.excerpt);
            }
            Err(error) => wrong.push(format!("{marked}  fails with {}: {error}", error.kind)),
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn messages_and_hints_tell_what_to_do() {
    let shown = |expression: &str| error(expression).to_string();
    assert_eq!(shown("2 * sqr(4)"), "there is no function `sqr` (did you mean `sqrt`?)\n2 * sqr(4)\n    ^^^");
    assert_eq!(shown("1 / (2 - 2)"), "division by zero\n1 / (2 - 2)\n    ^^^^^^^");
    assert_eq!(shown("2pi"), "an operator is missing before `pi` (to multiply, write `*`)\n2pi\n ^^");
    assert_eq!(shown("(1 + 2"), "this parenthesis is not closed\n(1 + 2\n^");
    assert_eq!(
        shown("asin(1, 2)"),
        "`asin` takes 1 argument, here are 2 (asin(x): the angle from -pi/2 to pi/2 with this sine)\nasin(1, 2)\n^^^^^^^^^^"
    );
    assert_eq!(shown("PI * 2"), "`PI` has no value (did you mean `pi`?)\nPI * 2\n^^");
    assert_eq!(
        shown("50%"),
        "the expression ends where a value should be (`%` is the remainder; for a percentage write `/ 100`)\n50%\n   ^"
    );
    let hint = |expression: &str| error(expression).hint.unwrap_or_default();
    assert_eq!(hint("radius = 2; 3 * raduis"), "did you mean `radius`?");
    assert_eq!(hint("2 * sin"), "`sin` is a function; write `sin(x)`");
    assert_eq!(hint("x = 2; x(3)"), "`x` is a value; to multiply, write `x * (…)`");
    assert_eq!(hint("inf + 1"), "infinite and undefined values are errors here");
    assert_eq!(hint("(-8)^(1/3)"), "for roots write `cbrt(x)` or `root(x, n)`");
    assert_eq!(hint("if(x = 1, 2, 3)"), "to compare, write `==`");
    assert_eq!(error("sqrt(-10^50 - 1)").message, "the square root of -1e50 is not real");
}

#[test]
fn the_length_of_an_expression_is_bounded() {
    let longest = format!("1{}", "+1".repeat(EXPRESSION_BYTES_MAX / 2 - 1));
    assert!(evaluate(&Request::new(&longest), Budget::default()).is_ok());
    let at_the_bound = format!("{}1", " ".repeat(EXPRESSION_BYTES_MAX - 1));
    assert!(evaluate(&Request::new(&at_the_bound), Budget::default()).is_ok());
    let error = error(&format!(" {at_the_bound}"));
    assert_eq!((error.kind, error.span), (TooLong, Some(Span { offset: EXPRESSION_BYTES_MAX, length: 1 })));
    // The bound lies within a character, which is not cut.
    let error = self::error(&format!("1{}", "é".repeat(EXPRESSION_BYTES_MAX / 2)));
    assert_eq!((error.kind, error.span), (TooLong, Some(Span { offset: EXPRESSION_BYTES_MAX - 1, length: 2 })));
}

#[test]
fn the_depth_of_an_expression_is_bounded() {
    type Nested = fn(usize) -> String;
    let nestings: [(Nested, usize); 8] = [
        (|levels| format!("{}1{}", "(".repeat(levels), ")".repeat(levels)), 0),
        (|levels| format!("{}1", "-".repeat(levels)), 1),
        (|levels| format!("1{}", "^1".repeat(levels)), 1),
        (|levels| format!("{}1{}", "abs(".repeat(levels), ")".repeat(levels)), 1),
        (|levels| format!("{}1{}", "1+(".repeat(levels), ")".repeat(levels)), 1),
        (|levels| format!("{}true", "not ".repeat(levels)), 1),
        (|levels| format!("{}1", "true ? 1 : ".repeat(levels)), 1),
        (|levels| format!("0{}", " !".repeat(levels)), 1),
    ];
    for (nested, own) in nestings {
        let deepest = nested(NESTING_MAX - own);
        assert!(evaluate(&Request::new(&deepest), Budget::default()).is_ok(), "{deepest}");
        let error = error(&nested(NESTING_MAX + 1 - own));
        assert_eq!(error.kind, TooDeep, "{deepest}");
    }
    // Far beyond the bound, nothing overflows; and what is deep to the left only is not deep.
    for opening in ["(", "-", "!", "sin(", "2^", "1+(", "1?", "if(", "not "] {
        let error = error(&opening.repeat(EXPRESSION_BYTES_MAX / opening.len()));
        assert_eq!(error.kind, TooDeep, "{opening}");
    }
    assert_eq!(error(&"(".repeat(NESTING_MAX + 1)).span, Some(Span { offset: NESTING_MAX, length: 1 }));
}

#[test]
fn statements_arguments_and_names_are_bounded() {
    let statements = |count| vec!["1"; count].join(";");
    assert!(evaluate(&Request::new(statements(STATEMENTS_MAX)), Budget::default()).is_ok());
    let too_many = error(&statements(STATEMENTS_MAX + 1));
    assert_eq!(
        (too_many.kind, too_many.span),
        (TooManyStatements, Some(Span { offset: 2 * STATEMENTS_MAX, length: 1 }))
    );

    let call = |count| format!("sum({})", vec!["1"; count].join(","));
    assert!(evaluate(&Request::new(call(ARGUMENTS_MAX)), Budget::default()).is_ok());
    let too_many = error(&call(ARGUMENTS_MAX + 1));
    assert_eq!(
        (too_many.kind, too_many.span),
        (TooManyArguments, Some(Span { offset: 4 + 2 * ARGUMENTS_MAX, length: 1 }))
    );

    let name = |bytes| format!("{0} = 1; {0}", "n".repeat(bytes));
    assert!(evaluate(&Request::new(name(NAME_BYTES_MAX)), Budget::default()).is_ok());
    assert_eq!(error(&name(NAME_BYTES_MAX + 1)).kind, NameTooLong);
}

#[test]
fn digits_are_bounded() {
    let value =
        |expression: &str| evaluate(&Request::new(expression), Budget::default()).map(|answer| answer.result.text);
    let nines = "9".repeat(DIGITS_MAX);
    assert_eq!(value(&nines).unwrap(), nines);
    assert_eq!(value(&format!("1e{}", DIGITS_MAX - 1)).unwrap().len(), DIGITS_MAX);
    assert_eq!(value(&format!("1e-{}", DIGITS_MAX - 1)).unwrap(), format!("1e-{}", DIGITS_MAX - 1));
    assert_eq!(error(&format!("9{nines}")).kind, NumberTooLarge);
    assert_eq!(error(&format!("0x{}", "f".repeat(DIGITS_MAX))).kind, NumberTooLarge);
    assert_eq!(error(&format!("1.{}", "1".repeat(DIGITS_MAX))).kind, NumberTooLarge);
    assert_eq!(value(&format!("{FACTORIAL_MAX}!")).unwrap().len(), 2_568);
    // A fraction beyond the bound becomes a double; an integer is too large for that as well.
    assert_eq!(value("1 + (1/3)^5000").unwrap(), "1");
    assert_eq!(value(&format!("{nines} / ({nines} - 1)")).unwrap(), "1");
    assert_eq!(value(&format!("n = {nines}; x = 1 / n; x * x == 0")).unwrap(), "true");
    assert_eq!(value(&format!("n = {nines}; x = 1 / n; x == 0")).unwrap(), "false");
    assert_eq!(error(&format!("{nines} * {nines}")).kind, Overflow);
}

#[test]
fn steps_are_bounded_and_an_evaluation_can_be_cancelled() {
    let request = Request::new("1 + 2 * 3");
    let steps = evaluate(&request, Budget::default()).unwrap().steps;
    let budget = |steps| Budget { steps, ..Budget::default() };
    assert!(evaluate(&request, budget(steps)).is_ok());
    assert_eq!(evaluate(&request, budget(steps - 1)).unwrap_err().kind, TooManySteps);

    let cancelled = || true;
    let error = evaluate(&request, Budget::until(&cancelled)).unwrap_err();
    assert_eq!(error.kind, Cancelled);
    // A long evaluation asks again and again.
    let questions = Cell::new(0);
    let after_five = || {
        questions.set(questions.get() + 1);
        5 < questions.get()
    };
    let long = Request::new(format!("x = 1000!; x{}", " / x * x".repeat(1_000)));
    assert_eq!(evaluate(&long, Budget::until(&after_five)).unwrap_err().kind, Cancelled);
    assert_eq!(questions.get(), 6);
}

#[test]
fn variables_and_precision_are_checked() {
    let with = |name: &str, input: Input| {
        let request = Request { variables: BTreeMap::from([(name.to_owned(), input)]), ..Request::new("1") };
        evaluate(&request, Budget::default()).map(|answer| answer.result.text)
    };
    let refused = |name: &str, input: Input| {
        let error = with(name, input).unwrap_err();
        assert_eq!((error.kind, error.span, error.excerpt.as_str()), (BadVariable, None, ""), "{name}");
        error.message
    };
    assert_eq!(with("x", Input::Integer(i128::MIN)).unwrap(), "1");
    for name in ["", "1x", "x y", "x+", "pi", "π", "true", "if", "and", "e", "a\u{0}"] {
        refused(name, Input::Integer(1));
    }
    assert_eq!(refused("pi", Input::Integer(1)), "`pi` is part of the language and cannot be a variable");
    refused(&"x".repeat(NAME_BYTES_MAX + 1), Input::Integer(1));
    refused("x", Input::Number(f64::NAN));
    refused("x", Input::Number(f64::INFINITY));
    for text in ["", "x", "1 + 1", "--1", "1e9999", "1.2.3", "sqrt(2)", "1 2", "0x", "-"] {
        refused("x", Input::Text(text.to_owned()));
    }
    refused("x", Input::Text("0".repeat(EXPRESSION_BYTES_MAX + 1)));
    let many = |count| Request {
        variables: (0..count).map(|index| (format!("x{index}"), Input::Integer(1))).collect(),
        ..Request::new("1")
    };
    assert!(evaluate(&many(VARIABLES_MAX), Budget::default()).is_ok());
    assert_eq!(evaluate(&many(VARIABLES_MAX + 1), Budget::default()).unwrap_err().kind, BadVariable);

    let precise = |digits| evaluate(&Request { precision: Some(digits), ..Request::new("1/3") }, Budget::default());
    assert!(precise(1).is_ok() && precise(PRECISION_MAX).is_ok());
    for digits in [0, PRECISION_MAX + 1, u32::MAX] {
        assert_eq!(precise(digits).unwrap_err().kind, BadPrecision);
    }
}

/// Each kind is shown by some test of this file.
#[test]
fn no_kind_of_error_is_untested() {
    let in_table: BTreeSet<&str> = TABLE.iter().map(|(_, kind)| kind.name()).collect();
    let elsewhere = [
        TooLong,
        TooDeep,
        TooManyStatements,
        TooManyArguments,
        NameTooLong,
        TooManySteps,
        Cancelled,
        BadVariable,
        BadPrecision,
    ];
    for kind in ErrorKind::ALL {
        assert!(in_table.contains(kind.name()) != elsewhere.contains(kind), "{kind}");
    }
}
