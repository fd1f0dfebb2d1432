//! What can go wrong with an expression, and where.
//!
//! Every error has a kind for programs, a place in bytes of the expression, a message, often a hint, and an excerpt of
//! two lines whose carets point at the place. `Problem` is the same thing inside the engine, before its place is known:
//! the arithmetic knows neither spans nor source text.

use std::fmt;

use unicode_width::UnicodeWidthChar;

/// Columns of an excerpt; a longer expression is cut around the place.
const EXCERPT_COLUMNS_MAX: usize = 72;

/// Columns of context kept before the place when an excerpt is cut.
const EXCERPT_CONTEXT_COLUMNS: usize = 30;

/// A place in an expression, in bytes. Both ends lie on character boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    pub offset: usize,
    pub length: usize,
}

impl Span {
    pub(crate) fn between(start: usize, end: usize) -> Self {
        Self { offset: start, length: end.saturating_sub(start) }
    }

    pub(crate) fn end(self) -> usize {
        self.offset + self.length
    }

    pub(crate) fn to(self, last: Self) -> Self {
        Self::between(self.offset, last.end())
    }
}

macro_rules! error_kinds {
    ($($(#[$note:meta])* $variant:ident = $name:literal,)*) => {
        /// The kinds of errors. Their names are part of the plugin's interface: they are added, never renamed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorKind {
            $($(#[$note])* $variant,)*
        }

        impl ErrorKind {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

error_kinds! {
    /// There is no expression, only white space.
    Empty = "empty",
    TooLong = "too_long",
    TooDeep = "too_deep",
    TooManyStatements = "too_many_statements",
    TooManyArguments = "too_many_arguments",
    NameTooLong = "name_too_long",
    /// A character that no expression contains.
    StrayCharacter = "stray_character",
    /// Digits that do not form a number, such as `1.2.3` or `0b12`.
    BadNumber = "bad_number",
    /// A literal beyond the bounds of exact numbers.
    NumberTooLarge = "number_too_large",
    UnclosedParenthesis = "unclosed_parenthesis",
    UnmatchedParenthesis = "unmatched_parenthesis",
    /// A value should stand here.
    ExpectedOperand = "expected_operand",
    /// Two values meet without an operator between them; multiplication is never implied.
    ExpectedOperator = "expected_operator",
    /// A `?` without its `:`.
    MissingColon = "missing_colon",
    UnexpectedToken = "unexpected_token",
    /// `a < b < c`.
    ChainedComparison = "chained_comparison",
    /// `=` where nothing can be assigned.
    BadAssignment = "bad_assignment",
    /// A constant or a keyword cannot be a variable.
    ReservedName = "reserved_name",
    UnknownName = "unknown_name",
    UnknownFunction = "unknown_function",
    WrongArgumentCount = "wrong_argument_count",
    /// A number where a boolean belongs, or the other way round.
    TypeMismatch = "type_mismatch",
    IntegerRequired = "integer_required",
    DivisionByZero = "division_by_zero",
    /// The result is too large for every representation, or infinite.
    Overflow = "overflow",
    FactorialTooLarge = "factorial_too_large",
    /// The function has no real value at this argument.
    Domain = "domain",
    TooManySteps = "too_many_steps",
    /// The caller no longer wants the answer.
    Cancelled = "cancelled",
    /// A variable in the request, not in the expression, is wrong.
    BadVariable = "bad_variable",
    BadPrecision = "bad_precision",
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalError {
    pub kind: ErrorKind,
    /// Absent when the fault lies outside the expression: in a variable, the precision, or the caller's own
    /// cancellation.
    pub span: Option<Span>,
    pub message: String,
    pub hint: Option<String>,
    /// Two lines: the expression, or the part around the place, and carets below the place. Empty without a span.
    pub excerpt: String,
}

impl EvalError {
    pub(crate) fn new(problem: Problem, source: &str) -> Self {
        let excerpt = problem.span.map_or_else(String::new, |span| excerpt(source, span));
        Self { kind: problem.kind, span: problem.span, message: problem.message, hint: problem.hint, excerpt }
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        if !self.excerpt.is_empty() {
            write!(f, "\n{}", self.excerpt)?;
        }
        Ok(())
    }
}

impl std::error::Error for EvalError {}

/// An error on its way to its place: arithmetic names at most the argument, the evaluator turns that into a span.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) argument: Option<usize>,
    pub(crate) span: Option<Span>,
}

impl Problem {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, argument: None, span: None }
    }

    pub(crate) fn domain(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Domain, message)
    }

    pub(crate) fn overflow() -> Self {
        Self::new(ErrorKind::Overflow, "the result is too large")
    }

    pub(crate) fn at(mut self, span: Span) -> Self {
        self.span = Some(span);
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Blames one argument of a function, or one operand of an operator.
    pub(crate) fn argument(mut self, index: usize) -> Self {
        self.argument = Some(index);
        self
    }
}

/// The part of `source` around `span`, and carets below it.
fn excerpt(source: &str, span: Span) -> String {
    let (before, from) = source.split_at(span.offset);
    // A character is never wider than its bytes are many, so what is short in bytes fits whole.
    let context = if source.len() <= EXCERPT_COLUMNS_MAX { EXCERPT_COLUMNS_MAX } else { EXCERPT_CONTEXT_COLUMNS };

    let mut columns = 0;
    let mut kept: Vec<char> = Vec::new();
    let mut cut = false;
    for (character, width) in before.chars().rev().map(printable) {
        if context < columns + width {
            cut = true;
            break;
        }
        columns += width;
        kept.push(character);
    }
    let mut line = String::new();
    if cut {
        line.push('…');
        columns += 1;
    }
    line.extend(kept.iter().rev());

    let indent = columns;
    let mut carets = 0;
    for (offset, character) in from.char_indices() {
        let (character, width) = printable(character);
        if EXCERPT_COLUMNS_MAX < columns + width {
            line.push('…');
            break;
        }
        columns += width;
        line.push(character);
        if offset < span.length {
            carets += width;
        }
    }
    // A place of no length, such as the end of the expression, still gets one caret.
    let carets = carets.max(1);
    format!("{}\n{:indent$}{:^<carets$}", line.trim_end(), "", "")
}

/// A character as it is shown, and its columns. Control characters and those without a width would tear the two lines
/// apart, or reorder them.
fn printable(character: char) -> (char, usize) {
    match character.width() {
        _ if character.is_whitespace() => (' ', 1),
        None | Some(0) => (char::REPLACEMENT_CHARACTER, 1),
        Some(width) => (character, width),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt_of(source: &str, offset: usize, length: usize) -> String {
        excerpt(source, Span { offset, length })
    }

    #[test]
    fn carets_stand_below_the_place() {
        assert_eq!(excerpt_of("1 + foo * 2", 4, 3), "1 + foo * 2\n    ^^^");
        assert_eq!(excerpt_of("1 +", 3, 0), "1 +\n   ^");
        assert_eq!(excerpt_of("", 0, 0), "\n^");
    }

    #[test]
    fn wide_and_invisible_characters_keep_the_carets_in_place() {
        assert_eq!(excerpt_of("数 + x", 6, 1), "数 + x\n     ^");
        assert_eq!(excerpt_of("a\n\t+ $", 5, 1), "a  + $\n     ^");
        assert_eq!(excerpt_of("\u{202e}+$", 4, 1), "\u{fffd}+$\n  ^");
    }

    #[test]
    fn a_long_expression_is_cut_around_the_place() {
        let source = format!("{}$$ {}", "1+".repeat(100), "+1".repeat(100));
        let expected = format!("…{}$$ {}…\n{}^^", "1+".repeat(15), "+1".repeat(19), " ".repeat(31));
        assert_eq!(excerpt_of(&source, 200, 2), expected);
        let source = format!("({}", "1+".repeat(60));
        assert_eq!(excerpt_of(&source, 0, 1), format!("({}1…\n^", "1+".repeat(35)));
    }

    #[test]
    fn names_of_kinds_are_distinct() {
        let names: std::collections::BTreeSet<_> = ErrorKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }
}
