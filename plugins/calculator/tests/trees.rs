//! Trees: their canonical text, their nodes, and the list of functions.

use calculator::{Arity, BinaryOperator, NodeKind, Span, UnaryOperator, functions, parse};

/// Expressions and their canonical text: no needless parentheses, and none missing.
const TABLE: &[(&str, &str)] = &[
    ("((1))", "1"),
    ("1_000+0xFF", "1000 + 0xFF"),
    ("(1+2)+3", "1 + 2 + 3"),
    ("1+(2+3)", "1 + (2 + 3)"),
    ("1-(2-3)", "1 - (2 - 3)"),
    ("(1*2)+3", "1 * 2 + 3"),
    ("1*(2+3)", "1 * (2 + 3)"),
    ("(1+2)*3", "(1 + 2) * 3"),
    ("((1+2)*3+4)*5", "((1 + 2) * 3 + 4) * 5"),
    ("1/(2*3)", "1 / (2 * 3)"),
    ("1//2%3", "1 // 2 % 3"),
    ("(2^3)^2", "(2^3)^2"),
    ("2^(3^2)", "2^3^2"),
    ("2**3", "2^3"),
    ("(-2)^2", "(-2)^2"),
    ("-(2^2)", "-2^2"),
    ("2^(-3)", "2^-3"),
    ("2^(1+1)", "2^(1 + 1)"),
    ("-(1+2)", "-(1 + 2)"),
    ("-(2*3)", "-(2 * 3)"),
    ("(-2)*3", "-2 * 3"),
    ("2*(-3)", "2 * -3"),
    ("- -3", "--3"),
    ("-(+3)", "-+3"),
    ("(3!)!", "(3!)!"),
    ("3! !", "(3!)!"),
    ("3!!", "3!!"),
    ("(-3)!", "(-3)!"),
    ("-(3!)", "-3!"),
    ("(2^3)!", "(2^3)!"),
    ("2^(3!)", "2^3!"),
    ("sqrt((4))!", "sqrt(4)!"),
    ("(1<2)==true", "(1 < 2) == true"),
    ("1+2<3*4", "1 + 2 < 3 * 4"),
    ("not(1<2)", "not 1 < 2"),
    ("!x==y", "(not x) == y"),
    ("!!x", "not not x"),
    ("-(!x)", "-(not x)"),
    ("not x and y", "not x and y"),
    ("not(x and y)", "not (x and y)"),
    ("x&&y||z", "x and y or z"),
    ("x and(y or z)", "x and (y or z)"),
    ("x or(y or z)", "x or (y or z)"),
    ("if(x,1,2)", "x ? 1 : 2"),
    ("(x?y:z)?1:2", "(x ? y : z) ? 1 : 2"),
    ("x?y:(z?1:2)", "x ? y : z ? 1 : 2"),
    ("x?(y?1:2):3", "x ? y ? 1 : 2 : 3"),
    ("1+(x?1:2)", "1 + (x ? 1 : 2)"),
    ("max(1,(2),x?1:2)", "max(1, 2, x ? 1 : 2)"),
    ("x=1 ; y=(x+1)*2;", "x = 1; y = (x + 1) * 2"),
    ("2×3÷4−1≤5", "2 * 3 / 4 - 1 <= 5"),
];

#[test]
fn the_text_of_a_tree_is_canonical() {
    for (source, expected) in TABLE {
        let tree = parse(source).unwrap();
        assert_eq!(tree.to_string(), *expected, "{source}");
        assert_eq!(parse(expected).unwrap(), tree, "{source}");
    }
}

#[test]
fn trees_differ_where_their_meaning_does() {
    let different = [
        "1 + 2", "1 - 2", "2 + 1", "1 + 2.5", "1 + x", "1 + y", "+1", "-1", "1!", "1!!", "sin(1)", "cos(1)", "x = 1",
        "y = 1", "1",
    ];
    for (index, one) in different.iter().enumerate() {
        for (other_index, other) in different.iter().enumerate() {
            assert_eq!(parse(one).unwrap() == parse(other).unwrap(), index == other_index, "{one} and {other}");
        }
    }
    assert_eq!(parse("0x10 + 1.50").unwrap(), parse("16+1.5").unwrap());
}

#[test]
fn nodes_lie_below_their_parents_and_know_their_place() {
    let tree = parse("y = (1 + x) * -sin(2)").unwrap();
    assert_eq!(tree.source(), "y = (1 + x) * -sin(2)");
    assert_eq!(tree.statements().len(), 1);
    assert_eq!(tree.statements()[0].target.as_deref(), Some("y"));
    let texts: Vec<&str> =
        tree.nodes().iter().map(|node| &tree.source()[node.span.offset..node.span.offset + node.span.length]).collect();
    assert_eq!(texts, ["1", "x", "(1 + x)", "2", "sin(2)", "-sin(2)", "(1 + x) * -sin(2)"]);

    let root = &tree.nodes()[tree.statements()[0].root.index()];
    let NodeKind::Binary { operator: BinaryOperator::Multiply, left, right } = &root.kind else { panic!("{root:?}") };
    assert_eq!((left.index(), right.index()), (2, 5));
    let NodeKind::Unary { operator: UnaryOperator::Negate, operand } = &tree.nodes()[5].kind else { panic!() };
    let NodeKind::Call { function, arguments } = &tree.nodes()[operand.index()].kind else { panic!() };
    assert_eq!((function.name, arguments.len()), ("sin", 1));
    let NodeKind::Number(literal) = &tree.nodes()[0].kind else { panic!() };
    assert_eq!(literal.text, "1");
    assert_eq!(tree.nodes()[1].kind, NodeKind::Name("x".to_owned()));
    assert_eq!(tree.nodes()[0].span, Span { offset: 5, length: 1 });
}

#[test]
fn functions_are_listed_with_what_they_take() {
    let round = functions().iter().find(|function| function.name == "round").unwrap();
    assert_eq!(round.arity, Arity { min: 1, max: 2 });
    assert_eq!(round.arity.to_string(), "1 to 2 arguments");
    assert_eq!(round.signature, "round(x, decimals = 0)");
    let arity = |name: &str| functions().iter().find(|function| function.name == name).unwrap().arity.to_string();
    assert_eq!(arity("sin"), "1 argument");
    assert_eq!(arity("atan2"), "2 arguments");
    assert_eq!(arity("max"), "at least 1 argument");
    assert_eq!(arity("variance"), "at least 2 arguments");
}
