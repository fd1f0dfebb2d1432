//! Cuts an expression into tokens and reads its numbers.
//!
//! Nothing is skipped but white space; every token knows its bytes. Digits become exact numbers here, bounded before
//! they are converted, so that `1e999999999` costs nothing.

use dashu_int::{IBig, UBig};
use dashu_ratio::RBig;

use crate::error::{ErrorKind, Problem, Span};
use crate::limits::{DIGITS_MAX, NAME_BYTES_MAX};

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) span: Span,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TokenKind {
    Number(RBig),
    Name,
    True,
    False,
    If,
    Not,
    Symbol(Symbol),
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Symbol {
    Plus,
    Minus,
    Star,
    Slash,
    DoubleSlash,
    Percent,
    Power,
    Bang,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    And,
    Or,
    Assign,
    Question,
    Colon,
    Comma,
    Semicolon,
    Open,
    Close,
}

/// Words that are part of the language; no variable has one of these names.
pub(crate) const KEYWORDS: &[&str] = &["and", "or", "not", "true", "false", "if"];

/// All tokens of `source`, the last of which is `End`.
pub(crate) fn tokenize(source: &str) -> Result<Vec<Token>, Problem> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = source[at..].chars().next() {
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let rest = &source[at..];
        let (kind, length) = if starts_number(rest) {
            number(rest).map_err(|problem| place(problem, at))?
        } else if starts_name(first) {
            name(rest).map_err(|problem| place(problem, at))?
        } else {
            symbol(rest, first).map_err(|problem| place(problem, at))?
        };
        tokens.push(Token { kind, span: Span { offset: at, length } });
        at += length;
    }
    tokens.push(Token { kind: TokenKind::End, span: Span { offset: source.len(), length: 0 } });
    Ok(tokens)
}

/// Whether `name` could stand for a variable in an expression.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && name.chars().next().is_some_and(starts_name) && name.chars().all(continues_name)
}

/// A number alone, such as the text of a variable: a sign, then a literal as in an expression.
pub(crate) fn signed_number(text: &str) -> Result<RBig, Problem> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !starts_number(digits) {
        return Err(Problem::new(ErrorKind::BadNumber, "not a number"));
    }
    match number(digits)? {
        (TokenKind::Number(value), length) if length == digits.len() => Ok(if negative { -value } else { value }),
        _ => Err(Problem::new(ErrorKind::BadNumber, "not a number")),
    }
}

/// Moves a problem found at a place within a token to its place in the source.
fn place(mut problem: Problem, at: usize) -> Problem {
    if let Some(span) = &mut problem.span {
        span.offset += at;
    }
    problem
}

fn starts_name(character: char) -> bool {
    character.is_alphabetic() || character == '_'
}

fn continues_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn starts_number(rest: &str) -> bool {
    let mut bytes = rest.bytes();
    match bytes.next() {
        Some(b'.') => bytes.next().is_some_and(|next| next.is_ascii_digit()),
        Some(first) => first.is_ascii_digit(),
        None => false,
    }
}

fn name(rest: &str) -> Result<(TokenKind, usize), Problem> {
    let length = rest.find(|character| !continues_name(character)).unwrap_or(rest.len());
    let kind = match &rest[..length] {
        "and" => TokenKind::Symbol(Symbol::And),
        "or" => TokenKind::Symbol(Symbol::Or),
        "not" => TokenKind::Not,
        "true" => TokenKind::True,
        "false" => TokenKind::False,
        "if" => TokenKind::If,
        _ if NAME_BYTES_MAX < length => {
            let message = format!("a name has at most {NAME_BYTES_MAX} bytes");
            return Err(Problem::new(ErrorKind::NameTooLong, message).at(Span { offset: 0, length }));
        }
        _ => TokenKind::Name,
    };
    Ok((kind, length))
}

fn symbol(rest: &str, first: char) -> Result<(TokenKind, usize), Problem> {
    // Looks like an operator of other languages, and would otherwise be read as two of ours: `a !== b` as `a! == b`.
    for (wrong, hint) in [("!==", "write `a != b`, or `a! == b`"), ("===", "write `==`")] {
        if rest.starts_with(wrong) {
            let problem = Problem::new(ErrorKind::UnexpectedToken, format!("`{wrong}` is not an operator"));
            return Err(problem.hint(hint).at(Span { offset: 0, length: wrong.len() }));
        }
    }
    const LONG: &[(&str, Symbol)] = &[
        ("**", Symbol::Power),
        ("//", Symbol::DoubleSlash),
        ("==", Symbol::Equal),
        ("!=", Symbol::NotEqual),
        ("<=", Symbol::LessEqual),
        (">=", Symbol::GreaterEqual),
        ("&&", Symbol::And),
        ("||", Symbol::Or),
    ];
    if let Some((text, symbol)) = LONG.iter().find(|(text, _)| rest.starts_with(text)) {
        return Ok((TokenKind::Symbol(*symbol), text.len()));
    }
    let symbol = match first {
        '+' => Symbol::Plus,
        '-' | '−' => Symbol::Minus,
        '*' | '×' | '·' => Symbol::Star,
        '/' | '÷' => Symbol::Slash,
        '%' => Symbol::Percent,
        '^' => Symbol::Power,
        '!' => Symbol::Bang,
        '<' => Symbol::Less,
        '>' => Symbol::Greater,
        '≤' => Symbol::LessEqual,
        '≥' => Symbol::GreaterEqual,
        '≠' => Symbol::NotEqual,
        '=' => Symbol::Assign,
        '?' => Symbol::Question,
        ':' => Symbol::Colon,
        ',' => Symbol::Comma,
        ';' => Symbol::Semicolon,
        '(' => Symbol::Open,
        ')' => Symbol::Close,
        _ => {
            let message = format!("`{}` has no meaning in an expression", first.escape_debug());
            let problem = Problem::new(ErrorKind::StrayCharacter, message);
            let problem = match first {
                '&' => problem.hint("write `and`, or `bitand(a, b)` for bits"),
                '|' => problem.hint("write `or`, or `bitor(a, b)` for bits"),
                '~' => problem.hint("write `not`, or `bitnot(a)` for bits"),
                '[' | ']' | '{' | '}' => problem.hint("write parentheses"),
                '√' => problem.hint("write `sqrt(x)`"),
                '∞' => problem.hint("infinite values are errors here"),
                '.' => problem.hint("a decimal point needs a digit"),
                '"' | '\'' => problem.hint("there are only numbers and booleans"),
                _ => problem,
            };
            return Err(problem.at(Span { offset: 0, length: first.len_utf8() }));
        }
    };
    Ok((TokenKind::Symbol(symbol), first.len_utf8()))
}

/// A literal at the start of `rest`, and its length in bytes.
fn number(rest: &str) -> Result<(TokenKind, usize), Problem> {
    let bytes = rest.as_bytes();
    let radix = match (bytes.first(), bytes.get(1)) {
        (Some(b'0'), Some(b'x' | b'X')) => 16,
        (Some(b'0'), Some(b'o' | b'O')) => 8,
        (Some(b'0'), Some(b'b' | b'B')) => 2,
        _ => return decimal(rest),
    };
    // The whole word belongs to the literal, so that `0b12` is one wrong number and not `0b1` followed by `2`.
    let length = rest.find(|character| !continues_name(character)).unwrap_or(rest.len());
    let digits = &rest[2..length];
    let span = Span { offset: 0, length };
    if !underscores_stand_between_digits(digits) {
        return Err(bad_number(&rest[..length], span));
    }
    let digits: String = digits.chars().filter(|character| *character != '_').collect();
    let significant = digits.trim_start_matches('0');
    if DIGITS_MAX < significant.len() {
        return Err(too_large(span));
    }
    if !digits.chars().all(|character| character.is_digit(radix)) {
        return Err(bad_number(&rest[..length], span));
    }
    let value = UBig::from_str_radix(&digits, radix).map_err(|_| bad_number(&rest[..length], span))?;
    if crate::limits::BITS_MAX < dashu_int::ops::BitTest::bit_len(&value) {
        return Err(too_large(span));
    }
    Ok((TokenKind::Number(RBig::from(value)), length))
}

/// `12`, `1_000`, `1.5`, `.5`, `5.`, `1e3`, `1.5e-3`.
fn decimal(rest: &str) -> Result<(TokenKind, usize), Problem> {
    let bytes = rest.as_bytes();
    let run = |from: usize, belongs: fn(&u8) -> bool| {
        bytes[from..].iter().position(|byte| !belongs(byte)).map_or(bytes.len(), |length| from + length)
    };
    let digit = |byte: &u8| byte.is_ascii_digit() || *byte == b'_';
    let integer_end = run(0, digit);
    let mut end = integer_end;
    let mut fraction = "";
    if bytes.get(end) == Some(&b'.') {
        let fraction_end = run(end + 1, digit);
        fraction = &rest[end + 1..fraction_end];
        end = fraction_end;
    }
    // An `e` without digits behind it is the constant, which cannot follow a number directly; the parser says so.
    let mut exponent = None;
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let signed = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let digits_start = end + 1 + signed;
        if bytes.get(digits_start).is_some_and(u8::is_ascii_digit) {
            let digits_end = run(digits_start, digit);
            exponent = Some((bytes[end + 1] == b'-', &rest[digits_start..digits_end]));
            end = digits_end;
        }
    }
    // A second point, as in `1.2.3`, makes the whole of it wrong.
    if bytes.get(end) == Some(&b'.') {
        let length = run(end, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'));
        return Err(bad_number(&rest[..length], Span { offset: 0, length }));
    }
    let span = Span { offset: 0, length: end };
    let integer = &rest[..integer_end];
    let parts = [Some(integer), Some(fraction), exponent.map(|(_, digits)| digits)];
    if !parts.into_iter().flatten().all(|part| part.is_empty() || underscores_stand_between_digits(part)) {
        return Err(bad_number(&rest[..end], span));
    }

    let mut digits: String = integer.chars().chain(fraction.chars()).filter(char::is_ascii_digit).collect();
    let fraction_digits = fraction.bytes().filter(u8::is_ascii_digit).count();
    let trailing_zeros = digits.len() - digits.trim_end_matches('0').len();
    digits.truncate(digits.len() - trailing_zeros);
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok((TokenKind::Number(RBig::ZERO), end));
    }
    let exponent = match exponent {
        None => 0,
        Some((negative, digits)) => {
            let digits: String = digits.chars().filter(char::is_ascii_digit).collect();
            // Anything that does not fit is as much too large as anything above the bound.
            let magnitude: i64 = digits.parse().map_err(|_| too_large(span))?;
            if negative { -magnitude } else { magnitude }
        }
    };
    // The value is `digits` times ten to the power of `scale`; the expression's length bounds all but the exponent.
    let scale = exponent.saturating_add(trailing_zeros as i64).saturating_sub(fraction_digits as i64);
    let magnitude = usize::try_from(scale.unsigned_abs()).map_err(|_| too_large(span))?;
    let integer_digits = digits.len() + if scale < 0 { 0 } else { magnitude.min(DIGITS_MAX) };
    if DIGITS_MAX < integer_digits || DIGITS_MAX - 1 < magnitude {
        return Err(too_large(span));
    }
    let digits = UBig::from_str_radix(digits, 10).map_err(|_| bad_number(&rest[..end], span))?;
    let power = UBig::from(10u8).pow(magnitude);
    let value = if scale < 0 { RBig::from_parts(IBig::from(digits), power) } else { RBig::from(digits * power) };
    Ok((TokenKind::Number(value), end))
}

fn underscores_stand_between_digits(digits: &str) -> bool {
    !digits.is_empty() && digits.split('_').all(|group| !group.is_empty())
}

fn bad_number(text: &str, span: Span) -> Problem {
    let shown: String = text.chars().take(40).collect();
    let dots = if shown.len() < text.len() { "…" } else { "" };
    Problem::new(ErrorKind::BadNumber, format!("`{shown}{dots}` is not a number")).at(span)
}

fn too_large(span: Span) -> Problem {
    Problem::new(
        ErrorKind::NumberTooLarge,
        format!("a number has at most {DIGITS_MAX} digits before and after its point"),
    )
    .at(span)
}
