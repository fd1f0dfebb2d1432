//! Expressions and the exact text of their values.

use std::collections::BTreeMap;

use calculator::{Answer, Budget, Datum, EvalError, Input, Request, evaluate};

fn answer(expression: &str) -> Result<Answer, EvalError> {
    evaluate(&Request::new(expression), Budget::default())
}

fn check(table: &[(&str, &str)]) {
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|(expression, expected)| match answer(expression) {
            Ok(answer) if answer.result.text == *expected => None,
            Ok(answer) => Some(format!("{expression}  gives {}, not {expected}", answer.result.text)),
            Err(error) => Some(format!("{expression}  fails: {error}")),
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// The example of the README, as a bare number.
#[test]
fn the_first_expression_of_every_user() {
    let answer = answer("sqrt(16) + sin(pi/2)").unwrap();
    assert_eq!(answer.result.text, "5");
    assert_eq!(answer.result.value, Datum::Integer(5));
    assert!(answer.result.exact);
}

#[test]
fn numbers() {
    check(&[
        ("0", "0"),
        ("-0", "0"),
        ("007", "7"),
        ("42", "42"),
        ("1_000_000", "1000000"),
        ("1.50", "1.5"),
        (".5", "0.5"),
        ("5.", "5"),
        ("1e3", "1000"),
        ("1E3", "1000"),
        ("1e+3", "1000"),
        ("1.5e-3", "0.0015"),
        ("1_0.0_1e1_0", "100100000000"),
        ("0xff", "255"),
        ("0XFF", "255"),
        ("0xdead_beef", "3735928559"),
        ("0o17", "15"),
        ("0b1011", "11"),
        ("0b0", "0"),
        ("1e-7", "1e-7"),
        ("0.000001", "0.000001"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("1e20", "100000000000000000000"),
        ("1e20 + 0.5", "1e20"),
        ("12345678.123456789", "12345678.1234568"),
        ("0.1234567890123456789", "0.123456789012346"),
        ("999999999999999.5", "1e15"),
        ("1e-400 * 1e400", "1"),
    ]);
}

#[test]
fn exact_arithmetic() {
    check(&[
        ("1 + 2", "3"),
        ("0.1 + 0.2", "0.3"),
        ("0.1 + 0.2 - 0.3", "0"),
        ("0.1 * 3", "0.3"),
        ("1.1 * 1.1", "1.21"),
        ("1 / 3", "0.333333333333333"),
        ("2 / 3", "0.666666666666667"),
        ("-2 / 3", "-0.666666666666667"),
        ("1 / 3 * 3", "1"),
        ("1/3 + 1/3 + 1/3", "1"),
        ("1/7", "0.142857142857143"),
        ("22/7 - 3", "0.142857142857143"),
        ("10 / 4", "2.5"),
        ("100 / 8 / 2", "6.25"),
        ("7 - 10", "-3"),
        ("2 - -3", "5"),
        ("2 - 3 - 4", "-5"),
        ("2 * 3 + 4", "10"),
        ("2 + 3 * 4", "14"),
        ("(2 + 3) * 4", "20"),
        ("1e30 + 1 - 1e30", "1"),
        ("9007199254740992 + 1", "9007199254740993"),
        ("4.35 * 100", "435"),
        ("1.005 * 1000", "1005"),
        ("0.57 * 100", "57"),
        ("19.99 * 3", "59.97"),
        ("1e-300 / 1e300 * 1e300 * 1e300", "1"),
        ("3 × 4 ÷ 6 − 1 · 2", "0"),
        ("1\n+\t2", "3"),
        ("1+2;", "3"),
    ]);
}

#[test]
fn quotients_and_remainders() {
    check(&[
        ("7 // 2", "3"),
        ("-7 // 2", "-4"),
        ("7 // -2", "-4"),
        ("-7 // -2", "3"),
        ("7 % 2", "1"),
        ("-7 % 2", "1"),
        ("7 % -2", "-1"),
        ("-7 % -2", "-1"),
        ("7.5 // 2", "3"),
        ("7.5 % 2", "1.5"),
        ("1 // 0.1", "10"),
        ("1 % 0.1", "0"),
        ("6 % 3", "0"),
        ("2 * 7 % 4", "2"),
        ("2 ^ 100 % 1000007", "698635"),
        ("10^30 // 7", "142857142857142857142857142857"),
        ("5 * pi % (2 * pi)", "3.14159265358979"),
        ("5 * pi // (2 * pi)", "2"),
        ("sqrt(2) % 1", "0.414213562373095"),
        ("-sqrt(2) % 1", "0.585786437626905"),
        ("-sqrt(2) // 1", "-2"),
        ("mod(-7, 3)", "2"),
        ("rem(-7, 3)", "-1"),
        ("rem(7, -3)", "1"),
        ("rem(-7.5, 2)", "-1.5"),
    ]);
}

#[test]
fn powers() {
    check(&[
        ("2^10", "1024"),
        ("2**10", "1024"),
        ("-2^2", "-4"),
        ("(-2)^2", "4"),
        ("(-2)^3", "-8"),
        ("2^-2", "0.25"),
        ("2^-1", "0.5"),
        ("2^3^2", "512"),
        ("(2^3)^2", "64"),
        ("2^-3^2", "0.001953125"),
        ("-2^-2", "-0.25"),
        ("2 * 3^2", "18"),
        ("0^0", "1"),
        ("0^5", "0"),
        ("0^0.5", "0"),
        ("1^1000000000000", "1"),
        ("(-1)^1000000000001", "-1"),
        ("(-1)^1e100", "1"),
        ("4^0.5", "2"),
        ("8^(1/3)", "2"),
        ("8^(2/3)", "4"),
        ("8^(-2/3)", "0.25"),
        ("0.25^0.5", "0.5"),
        ("(4/9)^1.5", "0.296296296296296"),
        ("2^0.5", "1.4142135623731"),
        ("10^-3", "0.001"),
        ("1.1^10", "2.5937424601"),
        ("(2/3)^-2", "2.25"),
        ("2^100", "1267650600228229401496703205376"),
        ("2^64 - 1", "18446744073709551615"),
        ("1.0000001^10000000", "2.71828169254497"),
        ("e^2", "7.38905609893065"),
        ("2^pi", "8.82497782707629"),
        ("pow(2, 10)", "1024"),
        ("(1 + 0.05/365)^(365*10)", "1.64866481376547"),
        ("(1 + 1e-12)^1e12", "2.71828182845769"),
        ("2^(1/3)", "1.25992104989487"),
        ("10^(1/3) * 10^(2/3)", "10"),
        ("pi^pi", "36.4621596072079"),
        ("(-1.5)^1001 > 0", "false"),
        ("2^-1e9", "0"),
        ("2^-(10^100)", "0"),
        ("0^e", "0"),
        ("0^pi", "0"),
        ("(e - e)^2", "0"),
        ("(1 + 1e-20)^1e20", "2.71828182845905"),
        ("(1 - 1e-20)^1e20", "0.367879441171442"),
        ("(-e)^3", "-20.0855369231877"),
        ("sqrt(2)^2", "2"),
    ]);
}

#[test]
fn factorials() {
    check(&[
        ("0!", "1"),
        ("1!", "1"),
        ("5!", "120"),
        ("20!", "2432902008176640000"),
        ("25!", "15511210043330985984000000"),
        ("-3!", "-6"),
        ("2^3!", "64"),
        ("3!^2", "36"),
        ("(3!)!", "720"),
        ("3! !", "720"),
        ("5!!", "15"),
        ("6!!", "48"),
        ("0!!", "1"),
        ("10!/8!", "90"),
        ("5! == 120", "true"),
        ("5 != 120", "true"),
        ("factorial(6)", "720"),
        ("(4/2)!", "2"),
        ("1000! / 999!", "1000"),
        ("sqrt(2)^2 * 0 + 3!", "6"),
    ]);
}

#[test]
fn comparisons_and_logic() {
    check(&[
        ("true", "true"),
        ("false", "false"),
        ("1 < 2", "true"),
        ("2 < 1", "false"),
        ("2 <= 2", "true"),
        ("2 >= 3", "false"),
        ("3 > 2", "true"),
        ("1 == 1.0", "true"),
        ("1 != 1", "false"),
        ("2 ≤ 2", "true"),
        ("2 ≥ 3", "false"),
        ("2 ≠ 3", "true"),
        ("0.1 + 0.2 == 0.3", "true"),
        ("1/3 == 2/6", "true"),
        ("pi == pi", "true"),
        ("pi > 3", "true"),
        ("3.2 < pi", "false"),
        ("pi == 3.14159265358979323846", "false"),
        ("2 * pi == tau", "true"),
        ("e < pi", "true"),
        ("10^400 > e", "true"),
        ("sqrt(2) < 10^400", "true"),
        ("sqrt(2)^2 == 2", "false"),
        ("isclose(sqrt(2)^2, 2)", "true"),
        ("isclose(1, 1.1)", "false"),
        ("isclose(1, 1.1, 0.1)", "true"),
        ("isclose(0, 0)", "true"),
        ("true and false", "false"),
        ("true and true", "true"),
        ("true or false", "true"),
        ("false or false", "false"),
        ("true && !false", "true"),
        ("false || not false", "true"),
        ("not true or true", "true"),
        ("not (true or true)", "false"),
        ("not 1 == 2", "true"),
        ("!true == false", "true"),
        ("true or false and false", "true"),
        ("1 < 2 and 2 < 3", "true"),
        ("not not true", "true"),
        ("true == true", "true"),
        ("true != false", "true"),
        ("1 + 1 == 2 and 2 * 2 == 4", "true"),
        // What is not needed is not evaluated.
        ("false and 1/0 == 1", "false"),
        ("true or 1/0 == 1", "true"),
        ("true ? 1 : 1/0", "1"),
        ("if(false, 1/0, 2)", "2"),
    ]);
}

#[test]
fn conditionals() {
    check(&[
        ("true ? 1 : 2", "1"),
        ("false ? 1 : 2", "2"),
        ("1 > 2 ? 10 : 20", "20"),
        ("false ? 1 : false ? 2 : 3", "3"),
        ("true ? false ? 1 : 2 : 3", "2"),
        ("if(1 < 2, 3, 4)", "3"),
        ("if(true, true, false)", "true"),
        ("if (true, 1, 2) + 1", "2"),
        ("1 + (true ? 1 : 2) * 3", "4"),
        ("x = -5; x < 0 ? -x : x", "5"),
        ("(true ? false : true) ? 1 : 2", "2"),
    ]);
}

#[test]
fn statements() {
    check(&[
        ("x = 3; y = x^2; y + 1", "10"),
        ("x = 3", "3"),
        ("x = 1; x = x + 1; x", "2"),
        ("a_1 = 2; A = 3; a_1 * A", "6"),
        ("größe = 2; größe * 3", "6"),
        ("sum = 4; sum(sum, 1)", "5"),
        ("t = true; if(t, 1, 2)", "1"),
        ("r = 2; pi * r^2", "12.5663706143592"),
        ("1; 2; 3;", "3"),
        ("notx = 1; orx = 2; notx + orx", "3"),
    ]);
}

#[test]
fn constants() {
    check(&[
        ("pi", "3.14159265358979"),
        ("π", "3.14159265358979"),
        ("tau", "6.28318530717959"),
        ("τ / 2", "3.14159265358979"),
        ("e", "2.71828182845905"),
        ("phi", "1.61803398874989"),
        ("φ", "1.61803398874989"),
        ("tau / pi", "2"),
        ("pi - pi", "0"),
        ("pi * 0", "0"),
        ("pi + 0", "3.14159265358979"),
        ("0 + pi", "3.14159265358979"),
        ("pi + 1", "4.14159265358979"),
        ("1 / pi", "0.318309886183791"),
        ("pi^2", "9.86960440108936"),
        ("-pi / 2", "-1.5707963267949"),
        ("(pi / 3 + pi / 6) / pi", "0.5"),
        ("phi^2 - phi", "1"),
    ]);
}

#[test]
fn rounding() {
    check(&[
        ("floor(2.7)", "2"),
        ("floor(-2.2)", "-3"),
        ("ceil(2.2)", "3"),
        ("ceil(-2.7)", "-2"),
        ("trunc(2.7)", "2"),
        ("trunc(-2.7)", "-2"),
        ("fract(2.75)", "0.75"),
        ("fract(-2.75)", "-0.75"),
        ("round(2.5)", "3"),
        ("round(-2.5)", "-3"),
        ("round(2.4)", "2"),
        ("round(2.675, 2)", "2.68"),
        ("round(1.005, 2)", "1.01"),
        ("round(1234.5, -2)", "1200"),
        ("round(pi, 4)", "3.1416"),
        ("round(e, 3)", "2.718"),
        ("round(sqrt(2), 2)", "1.41"),
        ("round(1/3, 2) * 100", "33"),
        ("floor(pi)", "3"),
        ("ceil(pi)", "4"),
        ("floor(e)", "2"),
        ("floor(-e)", "-3"),
        ("floor(10^30 + 0.5) - 10^30", "0"),
        ("floor(1e22 * e / e)", "10000000000000000000000"),
        ("abs(-3)", "3"),
        ("abs(3.5)", "3.5"),
        ("abs(-pi)", "3.14159265358979"),
        ("abs(-e)", "2.71828182845905"),
        ("sign(-2)", "-1"),
        ("sign(0)", "0"),
        ("sign(pi)", "1"),
        ("clamp(5, 1, 3)", "3"),
        ("clamp(-5, 1, 3)", "1"),
        ("clamp(2, 1, 3)", "2"),
        ("min(3, 1, 2)", "1"),
        ("max(3, 1, 2)", "3"),
        ("min(7)", "7"),
        ("max(pi, e, 3)", "3.14159265358979"),
        ("min(pi, 22/7)", "3.14159265358979"),
    ]);
}

#[test]
fn roots_and_logarithms() {
    check(&[
        ("sqrt(16)", "4"),
        ("sqrt(0)", "0"),
        ("sqrt(2)", "1.4142135623731"),
        ("sqrt(0.01)", "0.1"),
        ("sqrt(9/16)", "0.75"),
        ("sqrt(10^400) / 10^199", "10"),
        ("sqrt(2 * 10^400) / 10^200", "1.4142135623731"),
        ("sqrt(10^-400 * 3) * 10^200", "1.73205080756888"),
        ("sqrt(pi)", "1.77245385090552"),
        ("cbrt(27)", "3"),
        ("cbrt(-27)", "-3"),
        ("cbrt(2)", "1.25992104989487"),
        ("cbrt(-2)", "-1.25992104989487"),
        ("cbrt(0.001)", "0.1"),
        ("root(32, 5)", "2"),
        ("root(-32, 5)", "-2"),
        ("root(16, 4)", "2"),
        ("root(16, -4)", "0.5"),
        ("root(10, 4)", "1.77827941003892"),
        ("root(-10, 5)", "-1.58489319246111"),
        ("root(7, 1)", "7"),
        ("root(2 * 10^600, 5)", "1.14869835499704e120"),
        ("root(e, 3)", "1.39561242508609"),
        ("hypot(3, 4)", "5"),
        ("hypot(1, 2, 2)", "3"),
        ("hypot(1, 1)", "1.4142135623731"),
        ("hypot(e, pi)", "4.15435440231331"),
        ("exp(0)", "1"),
        ("exp(1)", "2.71828182845905"),
        ("exp(-1)", "0.367879441171442"),
        ("exp(-1000)", "0"),
        ("expm1(0)", "0"),
        ("expm1(1e-20)", "1e-20"),
        ("ln(1)", "0"),
        ("ln(e)", "1"),
        ("ln(e^3)", "3"),
        ("ln(10)", "2.30258509299405"),
        ("ln(1 + 1e-20)", "1e-20"),
        ("ln(10^1000)", "2302.58509299405"),
        ("ln(10^-1000)", "-2302.58509299405"),
        ("log(e)", "1"),
        ("log(100)", "4.60517018598809"),
        ("log(100, 10)", "2"),
        ("log(8, 2)", "3"),
        ("log2(8)", "3"),
        ("log2(1/8)", "-3"),
        ("log2(10)", "3.32192809488736"),
        ("log10(1000)", "3"),
        ("log10(0.001)", "-3"),
        ("log10(10^2000)", "2000"),
        ("log10(2 * 10^400)", "400.301029995664"),
        ("log10(2)", "0.301029995663981"),
        ("logb(81, 3)", "4"),
        ("logb(1/81, 3)", "-4"),
        ("logb(8, 4)", "1.5"),
        ("logb(2, 0.5)", "-1"),
        ("logb(1, 7)", "0"),
        ("logb(5, e)", "1.6094379124341"),
        ("log1p(0)", "0"),
        ("log1p(1e-20)", "1e-20"),
    ]);
}

#[test]
fn angles() {
    check(&[
        ("sin(0)", "0"),
        ("sin(pi)", "0"),
        ("sin(pi/2)", "1"),
        ("sin(pi/6)", "0.5"),
        ("sin(5*pi/6)", "0.5"),
        ("sin(5*pi/6) == 1/2", "true"),
        ("sin(11*pi/6) == -1/2", "true"),
        ("sin(3*pi/4) == sin(pi/4)", "true"),
        ("sin(7*pi/6)", "-0.5"),
        ("sin(-pi/6)", "-0.5"),
        ("sin(3*pi/2)", "-1"),
        ("sin(pi/4)", "0.707106781186548"),
        ("sin(3*pi/4)", "0.707106781186548"),
        ("sin(pi/3)", "0.866025403784439"),
        ("sin(1)", "0.841470984807897"),
        ("sin(1e22)", "-0.852200849767189"),
        ("sin(10^50 * pi)", "0"),
        ("sin(10^50 + 0.5) < 2", "true"),
        ("sin(2*pi/3)", "0.866025403784439"),
        ("sin(pi/5)", "0.587785252292473"),
        ("sin(2*pi/5)", "0.951056516295154"),
        ("cos(0)", "1"),
        ("cos(pi)", "-1"),
        ("cos(pi/2)", "0"),
        ("cos(pi/3)", "0.5"),
        ("cos(2*pi/3)", "-0.5"),
        ("cos(pi/4)", "0.707106781186548"),
        ("cos(-pi/3)", "0.5"),
        ("cos(tau)", "1"),
        ("cos(1)", "0.54030230586814"),
        ("tan(0)", "0"),
        ("tan(pi)", "0"),
        ("tan(pi/4)", "1"),
        ("tan(-pi/4)", "-1"),
        ("tan(3*pi/4)", "-1"),
        ("tan(5*pi/4)", "1"),
        ("tan(pi/3)", "1.73205080756888"),
        ("tan(pi/6)", "0.577350269189626"),
        ("tan(1)", "1.5574077246549"),
        ("sec(0)", "1"),
        ("sec(pi/3)", "2"),
        ("csc(pi/6)", "2"),
        ("cot(pi/4)", "1"),
        ("cot(pi/2)", "0"),
        ("sec(1)", "1.85081571768093"),
        ("csc(1)", "1.18839510577812"),
        ("cot(1)", "0.642092615934331"),
        ("asin(1) / pi", "0.5"),
        ("asin(-1/2) / pi", "-0.166666666666667"),
        ("asin(0)", "0"),
        ("asin(0.3)", "0.304692654015398"),
        ("acos(0) / pi", "0.5"),
        ("acos(1)", "0"),
        ("acos(-1) == pi", "true"),
        ("acos(1/2) / pi", "0.333333333333333"),
        ("acos(-1/2) / pi", "0.666666666666667"),
        ("acos(0.3)", "1.2661036727795"),
        ("atan(1) * 4 == pi", "true"),
        ("atan(-1) / pi", "-0.25"),
        ("atan(0)", "0"),
        ("atan(2)", "1.10714871779409"),
        ("atan2(1, 1) / pi", "0.25"),
        ("atan2(1, -1) / pi", "0.75"),
        ("atan2(-1, -1) / pi", "-0.75"),
        ("atan2(-1, 1) / pi", "-0.25"),
        ("atan2(0, 5)", "0"),
        ("atan2(0, -5) / pi", "1"),
        ("atan2(5, 0) / pi", "0.5"),
        ("atan2(-5, 0) / pi", "-0.5"),
        ("atan2(1, 2)", "0.463647609000806"),
        ("deg(pi)", "180"),
        ("deg(asin(1))", "90"),
        ("deg(1)", "57.2957795130823"),
        ("rad(180) == pi", "true"),
        ("sin(rad(30))", "0.5"),
        ("cos(rad(60))", "0.5"),
        ("tan(rad(45))", "1"),
        ("rad(1)", "0.0174532925199433"),
        ("sinh(0)", "0"),
        ("sinh(1)", "1.1752011936438"),
        ("cosh(0)", "1"),
        ("cosh(1)", "1.54308063481524"),
        ("tanh(0)", "0"),
        ("tanh(1)", "0.761594155955765"),
        ("asinh(0)", "0"),
        ("asinh(1)", "0.881373587019543"),
        ("acosh(1)", "0"),
        ("acosh(2)", "1.31695789692482"),
        ("atanh(0)", "0"),
        ("atanh(0.5)", "0.549306144334055"),
    ]);
}

#[test]
fn integers() {
    check(&[
        ("gcd(12, 18)", "6"),
        ("gcd(12, 18, 8)", "2"),
        ("gcd(0, 5)", "5"),
        ("gcd(0, 0)", "0"),
        ("gcd(-12, 18)", "6"),
        ("gcd(7)", "7"),
        ("lcm(4, 6)", "12"),
        ("lcm(4, 6, 10)", "60"),
        ("lcm(0, 5)", "0"),
        ("lcm(-4, 6)", "12"),
        ("comb(5, 2)", "10"),
        ("comb(5, 0)", "1"),
        ("comb(5, 5)", "1"),
        ("comb(5, 6)", "0"),
        ("comb(52, 5)", "2598960"),
        ("comb(1000000000000, 2)", "499999999999500000000000"),
        ("comb(10^30, 10^30 - 1)", "1000000000000000000000000000000"),
        ("perm(5, 2)", "20"),
        ("perm(5, 0)", "1"),
        ("perm(3, 4)", "0"),
        ("perm(10, 10)", "3628800"),
        ("gamma(5)", "24"),
        ("gamma(0.5)", "1.77245385090552"),
        ("gamma(-0.5)", "-3.54490770181103"),
        ("lgamma(10)", "12.8018274800815"),
        ("lgamma(2000)", "13198.9234480543"),
        ("bitand(12, 10)", "8"),
        ("bitor(12, 10)", "14"),
        ("bitxor(12, 10)", "6"),
        ("bitnot(5)", "-6"),
        ("bitnot(-6)", "5"),
        ("bitand(-1, 255)", "255"),
        ("bitor(-8, 3)", "-5"),
        ("bitxor(-1, 1)", "-2"),
        ("shl(1, 64)", "18446744073709551616"),
        ("shr(1024, 3)", "128"),
        ("shr(-5, 1)", "-3"),
        ("shl(-3, 2)", "-12"),
        ("erf(0)", "0"),
        ("erf(1)", "0.842700792949715"),
        ("erfc(0)", "1"),
        ("erfc(1)", "0.157299207050285"),
    ]);
}

#[test]
fn statistics() {
    check(&[
        ("sum(1, 2, 3)", "6"),
        ("sum(0.1, 0.2, 0.3)", "0.6"),
        ("sum(1)", "1"),
        ("product(1, 2, 3, 4)", "24"),
        ("mean(1, 2, 3, 4)", "2.5"),
        ("mean(1, 1, 2)", "1.33333333333333"),
        ("mean(pi, 3*pi) / pi", "2"),
        ("median(3, 1, 2)", "2"),
        ("median(4, 1, 3, 2)", "2.5"),
        ("median(5)", "5"),
        ("median(pi, 3, e)", "3"),
        ("geomean(2, 8)", "4"),
        ("geomean(1, 2, 3)", "1.81712059283214"),
        ("geomean(0, 5)", "0"),
        ("variance(2, 4, 4, 4, 5, 5, 7, 9)", "4.57142857142857"),
        ("pvariance(2, 4, 4, 4, 5, 5, 7, 9)", "4"),
        ("pstddev(2, 4, 4, 4, 5, 5, 7, 9)", "2"),
        ("stddev(1, 2, 3)", "1"),
        ("stddev(1, 2)", "0.707106781186548"),
        ("variance(1, 3)", "2"),
        ("pvariance(5)", "0"),
        ("variance(0.1, 0.1, 0.1)", "0"),
    ]);
}

#[test]
fn precision_counts_significant_digits_and_spares_integers() {
    let text = |expression: &str, precision| {
        let request = Request { precision: Some(precision), ..Request::new(expression) };
        evaluate(&request, Budget::default()).unwrap().result.text
    };
    assert_eq!(text("pi", 1), "3");
    assert_eq!(text("pi", 3), "3.14");
    assert_eq!(text("pi", 30), "3.14159265358979323846264338328");
    assert_eq!(
        text("pi", 100),
        "3.141592653589793238462643383279502884197169399375105820974944592307816406286208998628034825342117068"
    );
    assert_eq!(text("1/3", 30), "0.333333333333333333333333333333");
    assert_eq!(text("2/3", 2), "0.67");
    assert_eq!(text("123456", 2), "123456");
    assert_eq!(text("123456.7", 2), "1.2e5");
    assert_eq!(text("sqrt(2)", 16), "1.414213562373095");
    assert_eq!(text("sqrt(2)", 17), "1.4142135623730951");
    assert_eq!(text("sqrt(2)", 100), "1.4142135623730951");
    assert_eq!(text("e", 17), "2.718281828459045");
    assert_eq!(text("0.1", 100), "0.1");
    assert_eq!(text("0.1 + 0.2", 100), "0.3");
}

#[test]
fn values_are_numbers_where_a_double_holds_them() {
    let value = |expression: &str| answer(expression).unwrap().result.value;
    assert_eq!(value("0.1 + 0.2"), Datum::Number(0.3));
    assert_eq!(value("2 * 3"), Datum::Integer(6));
    assert_eq!(value("-2^53"), Datum::Integer(-9007199254740992));
    assert_eq!(value("2^53 + 1"), Datum::Text("9007199254740993".into()));
    assert_eq!(value("sqrt(2)^2"), Datum::Integer(2));
    assert_eq!(value("1e-400"), Datum::Text("1e-400".into()));
    assert_eq!(value("1e-300"), Datum::Number(1e-300));
    assert_eq!(value("10^400 + 1/2"), Datum::Text("1e400".into()));
    assert_eq!(value("exp(500)"), Datum::Number(1.40359221785284e217));
    assert_eq!(value("1 < 2"), Datum::Boolean(true));
}

#[test]
fn outcomes_say_how_far_to_trust_them() {
    let details = |expression: &str| {
        let outcome = answer(expression).unwrap().result;
        (outcome.text, outcome.exact, outcome.closed_form)
    };
    assert_eq!(details("1/3"), ("0.333333333333333".into(), false, Some("1/3".into())));
    assert_eq!(details("1/8"), ("0.125".into(), true, None));
    assert_eq!(details("pi"), ("3.14159265358979".into(), false, Some("pi".into())));
    assert_eq!(details("-2*pi/3"), ("-2.0943951023932".into(), false, Some("-2*pi/3".into())));
    assert_eq!(details("acos(0)"), ("1.5707963267949".into(), false, Some("pi/2".into())));
    assert_eq!(details("4 * pi"), ("12.5663706143592".into(), false, Some("4*pi".into())));
    assert_eq!(details("sqrt(2)"), ("1.4142135623731".into(), false, None));
    assert_eq!(details("2^200"), (answer("2^200").unwrap().result.text, true, None));
    // The closed form is an expression for the same value.
    for expression in ["1/3", "-22/7", "pi", "-2*pi/3", "acos(0)"] {
        let closed = answer(expression).unwrap().result.closed_form.unwrap();
        assert_eq!(details(&closed), details(expression), "{expression}");
    }
}

#[test]
fn variables_come_with_the_request_and_out_of_the_expression() {
    let variables = BTreeMap::from([
        ("a".to_owned(), Input::Number(0.1)),
        ("b".to_owned(), Input::Integer(3)),
        ("big".to_owned(), Input::Text("123456789012345678901234567890".to_owned())),
        ("half".to_owned(), Input::Text(" -0.5 ".to_owned())),
        ("flag".to_owned(), Input::Boolean(true)),
        ("tiny".to_owned(), Input::Number(5e-324)),
    ]);
    let run = |expression: &str| {
        evaluate(&Request { variables: variables.clone(), ..Request::new(expression) }, Budget::default()).unwrap()
    };
    assert_eq!(run("a * b").result.text, "0.3");
    assert_eq!(run("big + 1").result.text, "123456789012345678901234567891");
    assert_eq!(run("half * 4").result.text, "-2");
    assert_eq!(run("flag ? 1 : 2").result.text, "1");
    assert_eq!(run("tiny * 10^324").result.text, "5");
    // A variable of the request may be assigned anew.
    let answer = run("c = a * 2; b = b + 1; c = c + 1; d = b > 3; b");
    assert_eq!(answer.result.text, "4");
    let assigned: Vec<(&str, &str)> =
        answer.assigned.iter().map(|(name, outcome)| (name.as_str(), outcome.text.as_str())).collect();
    assert_eq!(assigned, [("c", "1.2"), ("b", "4"), ("d", "true")]);
}

#[test]
fn there_are_many_functions_and_each_has_been_called_here() {
    let source = include_str!("expressions.rs");
    assert!(30 <= calculator::functions().len());
    for function in calculator::functions() {
        assert!(source.contains(&format!("(\"{}(", function.name)), "{} is missing above", function.name);
    }
}
