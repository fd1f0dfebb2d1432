//! Builds the tree of an expression: operator precedence over tokens.
//!
//! Every error names its place. What recurses is counted: parentheses, calls, the operands of prefix operators,
//! exponents and branches while they are read, and the depth of the finished tree, on which all later walks rely.
//! Elsewhere: `syntax` holds the precedences; names of variables are checked by the evaluator, which knows them.

use crate::error::{ErrorKind, Problem, Span};
use crate::functions::{self, CONSTANTS};
use crate::hint;
use crate::limits::{ARGUMENTS_MAX, EXPRESSION_BYTES_MAX, NESTING_MAX, STATEMENTS_MAX};
use crate::syntax::{BinaryOperator, Level, Literal, Node, NodeId, NodeKind, Statement, Tree, UnaryOperator};
use crate::token::{KEYWORDS, Symbol, Token, TokenKind, tokenize};

pub(crate) fn parse(source: &str) -> Result<Tree, Problem> {
    if EXPRESSION_BYTES_MAX < source.len() {
        let offset = source.floor_char_boundary(EXPRESSION_BYTES_MAX);
        let message = format!("an expression has at most {EXPRESSION_BYTES_MAX} bytes, this one has {}", source.len());
        let span = Span::between(offset, source.len());
        return Err(Problem::new(ErrorKind::TooLong, message).at(span));
    }
    let tokens = tokenize(source)?;
    let parser =
        Parser { source, tokens, next: 0, nesting: 0, nodes: Vec::new(), depths: Vec::new(), assigned: vec![] };
    parser.statements()
}

struct Parser<'s> {
    source: &'s str,
    tokens: Vec<Token>,
    next: usize,
    nesting: usize,
    nodes: Vec<Node>,
    /// For each node, how deep a walk below it recurses.
    depths: Vec<usize>,
    assigned: Vec<String>,
}

impl Parser<'_> {
    fn statements(mut self) -> Result<Tree, Problem> {
        if self.peek().kind == TokenKind::End {
            return Err(Problem::new(ErrorKind::Empty, "the expression is empty").at(self.peek().span));
        }
        let mut statements = Vec::new();
        loop {
            if statements.len() == STATEMENTS_MAX {
                let message = format!("an expression has at most {STATEMENTS_MAX} statements");
                return Err(Problem::new(ErrorKind::TooManyStatements, message).at(self.peek().span));
            }
            statements.push(self.statement()?);
            let token = self.peek();
            match token.kind {
                TokenKind::End => break,
                TokenKind::Symbol(Symbol::Semicolon) => self.next += 1,
                _ => return Err(self.misplaced()),
            }
            // The last statement may end in a semicolon, too.
            if self.peek().kind == TokenKind::End {
                break;
            }
        }
        Ok(Tree { source: self.source.to_owned(), nodes: self.nodes, statements })
    }

    fn statement(&mut self) -> Result<Statement, Problem> {
        let target = match (&self.peek().kind, &self.peek_second().kind) {
            (TokenKind::Name, TokenKind::Symbol(Symbol::Assign)) => {
                let span = self.peek().span;
                let name = self.text(span).to_owned();
                if functions::constant(&name).is_some() {
                    let message = format!("`{name}` is a constant and cannot be assigned");
                    return Err(Problem::new(ErrorKind::ReservedName, message).at(span));
                }
                self.next += 2;
                Some(name)
            }
            (kind, TokenKind::Symbol(Symbol::Assign)) if is_keyword(kind) => {
                let span = self.peek().span;
                let message = format!("`{}` is a word of the language and cannot be assigned", self.text(span));
                return Err(Problem::new(ErrorKind::ReservedName, message).at(span));
            }
            _ => None,
        };
        let root = self.expression(Level::Conditional)?;
        if let Some(name) = &target {
            self.assigned.push(name.clone());
        }
        Ok(Statement { target, root })
    }

    /// Reads an operand and all operators behind it that bind at least as tightly as `level`.
    fn expression(&mut self, level: Level) -> Result<NodeId, Problem> {
        let mut left = self.operand(level)?;
        let mut after_comparison = false;
        loop {
            let TokenKind::Symbol(symbol) = self.peek().kind else { return Ok(left) };
            let span = self.peek().span;
            if symbol == Symbol::Bang && level <= Level::Postfix {
                left = self.factorial(left)?;
            } else if symbol == Symbol::Question && level <= Level::Conditional {
                left = self.conditional(left)?;
            } else if let Some(operator) = binary_operator(symbol) {
                if operator.is_comparison() && after_comparison {
                    let problem = Problem::new(ErrorKind::ChainedComparison, "comparisons cannot be chained");
                    return Err(problem.hint("write `a < b and b < c`").at(span));
                }
                if operator.level() < level {
                    return Ok(left);
                }
                self.next += 1;
                let right = match operator {
                    BinaryOperator::Power => self.nested(span, operator.right_level())?,
                    _ => self.expression(operator.right_level())?,
                };
                let depth = self.depth(left).max(self.depth(right) + 1);
                let whole = self.span(left).to(self.span(right));
                left = self.push(NodeKind::Binary { operator, left, right }, whole, depth)?;
                after_comparison = operator.is_comparison();
            } else {
                return Ok(left);
            }
        }
    }

    /// Reads a level deeper; `span` is what opened it.
    fn nested(&mut self, span: Span, level: Level) -> Result<NodeId, Problem> {
        if self.nesting == NESTING_MAX {
            return Err(too_deep(span));
        }
        self.nesting += 1;
        let node = self.expression(level);
        self.nesting -= 1;
        node
    }

    fn operand(&mut self, level: Level) -> Result<NodeId, Problem> {
        let Token { kind, span } = self.peek().clone();
        match kind {
            TokenKind::Number(value) => {
                self.next += 1;
                let text = self.text(span).chars().filter(|character| *character != '_').collect();
                self.push(NodeKind::Number(Literal { text, value }), span, 1)
            }
            TokenKind::True | TokenKind::False => {
                self.next += 1;
                self.push(NodeKind::Boolean(kind == TokenKind::True), span, 1)
            }
            TokenKind::Name if self.peek_second().kind == TokenKind::Symbol(Symbol::Open) => self.call(span),
            TokenKind::Name => {
                self.next += 1;
                self.push(NodeKind::Name(self.text(span).to_owned()), span, 1)
            }
            TokenKind::If => self.if_call(span),
            TokenKind::Not => {
                if Level::Not < level {
                    let problem = Problem::new(ErrorKind::UnexpectedToken, "`not` needs parentheses here");
                    return Err(problem.hint("write `(not x)` or `!x`").at(span));
                }
                self.next += 1;
                self.unary(UnaryOperator::Not, span, Level::Not)
            }
            TokenKind::Symbol(Symbol::Bang) => self.prefix(UnaryOperator::Not, span),
            TokenKind::Symbol(Symbol::Minus) => self.prefix(UnaryOperator::Negate, span),
            TokenKind::Symbol(Symbol::Plus) => self.prefix(UnaryOperator::Plus, span),
            TokenKind::Symbol(Symbol::Open) => {
                self.next += 1;
                let node = self.nested(span, Level::Conditional)?;
                let close = self.close(span)?;
                self.nodes[node.0].span = span.to(close);
                Ok(node)
            }
            TokenKind::Symbol(_) | TokenKind::End => Err(self.no_operand()),
        }
    }

    fn prefix(&mut self, operator: UnaryOperator, span: Span) -> Result<NodeId, Problem> {
        self.next += 1;
        self.unary(operator, span, Level::Unary)
    }

    fn unary(&mut self, operator: UnaryOperator, span: Span, level: Level) -> Result<NodeId, Problem> {
        let operand = self.nested(span, level)?;
        let depth = self.depth(operand) + 1;
        let whole = span.to(self.span(operand));
        self.push(NodeKind::Unary { operator, operand }, whole, depth)
    }

    /// One `!`, or two that touch each other.
    fn factorial(&mut self, operand: NodeId) -> Result<NodeId, Problem> {
        let first = self.peek().span;
        let adjacent = |token: &Token, end| token.kind == TokenKind::Symbol(Symbol::Bang) && token.span.offset == end;
        self.next += 1;
        let (operator, last) = match self.peek() {
            second if adjacent(second, first.end()) => (UnaryOperator::DoubleFactorial, second.span),
            _ => (UnaryOperator::Factorial, first),
        };
        if operator == UnaryOperator::DoubleFactorial {
            self.next += 1;
            if adjacent(self.peek(), last.end()) {
                let problem = Problem::new(ErrorKind::UnexpectedToken, "`!!!` is not an operator");
                return Err(problem.hint("write `(n!)!` or `(n!!)!`").at(self.peek().span));
            }
        }
        let depth = self.depth(operand) + 1;
        let whole = self.span(operand).to(last);
        self.push(NodeKind::Unary { operator, operand }, whole, depth)
    }

    fn conditional(&mut self, condition: NodeId) -> Result<NodeId, Problem> {
        let question = self.peek().span;
        self.next += 1;
        let then = self.nested(question, Level::Conditional)?;
        let token = self.peek();
        match token.kind {
            TokenKind::Symbol(Symbol::Colon) => self.next += 1,
            _ if starts_operand(&token.kind) => return Err(self.misplaced()),
            _ => {
                let problem = Problem::new(ErrorKind::MissingColon, "this `?` has no `:`");
                return Err(problem.hint("write `condition ? value : other`").at(question));
            }
        }
        let otherwise = self.nested(question, Level::Conditional)?;
        let whole = self.span(condition).to(self.span(otherwise));
        self.push_conditional(condition, then, otherwise, whole)
    }

    fn push_conditional(
        &mut self,
        condition: NodeId,
        then: NodeId,
        otherwise: NodeId,
        span: Span,
    ) -> Result<NodeId, Problem> {
        let depth = self.depth(condition).max(self.depth(then)).max(self.depth(otherwise)) + 1;
        self.push(NodeKind::Conditional { condition, then, otherwise }, span, depth)
    }

    fn if_call(&mut self, name: Span) -> Result<NodeId, Problem> {
        if self.peek_second().kind != TokenKind::Symbol(Symbol::Open) {
            let problem = Problem::new(ErrorKind::UnexpectedToken, "`if` is written like a function");
            return Err(problem.hint("write `if(condition, value, other)`").at(name));
        }
        let (arguments, whole) = self.arguments(name)?;
        match arguments[..] {
            [condition, then, otherwise] => self.push_conditional(condition, then, otherwise, whole),
            _ => {
                let message = format!("`if` takes 3 arguments, here are {}", arguments.len());
                Err(Problem::new(ErrorKind::WrongArgumentCount, message).at(whole))
            }
        }
    }

    fn call(&mut self, name: Span) -> Result<NodeId, Problem> {
        let Some(function) = functions::function(self.text(name)) else { return Err(self.unknown_function(name)) };
        let (arguments, whole) = self.arguments(name)?;
        if !function.arity.accepts(arguments.len()) {
            let message = format!("`{}` takes {}, here {}", function.name, function.arity, given(arguments.len()));
            let problem = Problem::new(ErrorKind::WrongArgumentCount, message);
            return Err(problem.hint(format!("{}: {}", function.signature, function.description)).at(whole));
        }
        let depth = arguments.iter().map(|argument| self.depth(*argument)).max().unwrap_or(0) + 1;
        self.push(NodeKind::Call { function, arguments }, whole, depth)
    }

    /// The arguments of a call, and the bytes from its name to its closing parenthesis.
    fn arguments(&mut self, name: Span) -> Result<(Vec<NodeId>, Span), Problem> {
        self.next += 1;
        let open = self.peek().span;
        self.next += 1;
        let mut arguments = Vec::new();
        if self.peek().kind != TokenKind::Symbol(Symbol::Close) {
            loop {
                if arguments.len() == ARGUMENTS_MAX {
                    let message = format!("a call has at most {ARGUMENTS_MAX} arguments");
                    return Err(Problem::new(ErrorKind::TooManyArguments, message).at(self.peek().span));
                }
                arguments.push(self.nested(open, Level::Conditional)?);
                if self.peek().kind != TokenKind::Symbol(Symbol::Comma) {
                    break;
                }
                self.next += 1;
            }
        }
        let close = self.close(open)?;
        Ok((arguments, name.to(close)))
    }

    fn close(&mut self, open: Span) -> Result<Span, Problem> {
        let token = self.peek();
        match token.kind {
            TokenKind::Symbol(Symbol::Close) => {
                let span = token.span;
                self.next += 1;
                Ok(span)
            }
            TokenKind::End | TokenKind::Symbol(Symbol::Semicolon) => {
                Err(Problem::new(ErrorKind::UnclosedParenthesis, "this parenthesis is not closed").at(open))
            }
            _ => Err(self.misplaced()),
        }
    }

    /// Why no operand starts at the next token.
    fn no_operand(&self) -> Problem {
        let token = self.peek();
        let found = match token.kind {
            TokenKind::End => "the expression ends".to_owned(),
            _ => format!("`{}` stands", self.text(token.span)),
        };
        let problem =
            Problem::new(ErrorKind::ExpectedOperand, format!("{found} where a value should be")).at(token.span);
        let before = self.next.checked_sub(1).map(|index| &self.tokens[index].kind);
        match (before, &token.kind) {
            (Some(TokenKind::Symbol(Symbol::Percent)), _) => {
                problem.hint("`%` is the remainder; for a percentage write `/ 100`")
            }
            (_, TokenKind::Symbol(Symbol::Assign)) => problem.hint("to compare, write `==`, `<=` or `>=`"),
            _ => problem,
        }
    }

    /// Why the next token cannot follow a complete operand.
    fn misplaced(&self) -> Problem {
        let Token { kind, span } = self.peek();
        let text = self.text(*span);
        match kind {
            _ if starts_operand(kind) => {
                let message = format!("an operator is missing before `{text}`");
                Problem::new(ErrorKind::ExpectedOperator, message).hint("to multiply, write `*`").at(*span)
            }
            TokenKind::Symbol(Symbol::Close) => {
                Problem::new(ErrorKind::UnmatchedParenthesis, "nothing is open that this could close").at(*span)
            }
            TokenKind::Symbol(Symbol::Assign) => {
                let problem = Problem::new(ErrorKind::BadAssignment, "only a name at the start can be assigned");
                problem.hint("to compare, write `==`").at(*span)
            }
            _ => Problem::new(ErrorKind::UnexpectedToken, format!("`{text}` cannot stand here")).at(*span),
        }
    }

    fn unknown_function(&self, span: Span) -> Problem {
        let name = self.text(span);
        let problem = Problem::new(ErrorKind::UnknownFunction, format!("there is no function `{name}`")).at(span);
        let is_value = functions::constant(name).is_some() || self.assigned.iter().any(|assigned| assigned == name);
        if is_value {
            return problem.hint(format!("`{name}` is a value; to multiply, write `{name} * (…)`"));
        }
        match hint::nearest(name, functions::functions().iter().map(|function| function.name).chain(["if"])) {
            Some(nearest) => problem.hint(format!("did you mean `{nearest}`?")),
            None => problem,
        }
    }

    fn push(&mut self, kind: NodeKind, span: Span, depth: usize) -> Result<NodeId, Problem> {
        if NESTING_MAX < depth {
            return Err(too_deep(span));
        }
        self.nodes.push(Node { kind, span });
        self.depths.push(depth);
        Ok(NodeId(self.nodes.len() - 1))
    }

    fn span(&self, node: NodeId) -> Span {
        self.nodes[node.0].span
    }

    fn depth(&self, node: NodeId) -> usize {
        self.depths[node.0]
    }

    fn text(&self, span: Span) -> &str {
        &self.source[span.offset..span.end()]
    }

    fn peek(&self) -> &Token {
        // The last token is `End`, which nothing takes.
        &self.tokens[self.next]
    }

    fn peek_second(&self) -> &Token {
        &self.tokens[(self.next + 1).min(self.tokens.len() - 1)]
    }
}

/// Whether a variable may have this name, as far as the language is concerned.
pub(crate) fn is_reserved(name: &str) -> bool {
    KEYWORDS.contains(&name) || CONSTANTS.iter().any(|constant| constant.names.contains(&name))
}

fn is_keyword(kind: &TokenKind) -> bool {
    matches!(
        kind,
        TokenKind::True
            | TokenKind::False
            | TokenKind::If
            | TokenKind::Not
            | TokenKind::Symbol(Symbol::And)
            | TokenKind::Symbol(Symbol::Or)
    )
}

fn starts_operand(kind: &TokenKind) -> bool {
    match kind {
        TokenKind::Symbol(symbol) => *symbol == Symbol::Open,
        TokenKind::End => false,
        TokenKind::Number(_)
        | TokenKind::Name
        | TokenKind::True
        | TokenKind::False
        | TokenKind::If
        | TokenKind::Not => true,
    }
}

fn binary_operator(symbol: Symbol) -> Option<BinaryOperator> {
    Some(match symbol {
        Symbol::Plus => BinaryOperator::Add,
        Symbol::Minus => BinaryOperator::Subtract,
        Symbol::Star => BinaryOperator::Multiply,
        Symbol::Slash => BinaryOperator::Divide,
        Symbol::DoubleSlash => BinaryOperator::FloorDivide,
        Symbol::Percent => BinaryOperator::Remainder,
        Symbol::Power => BinaryOperator::Power,
        Symbol::Equal => BinaryOperator::Equal,
        Symbol::NotEqual => BinaryOperator::NotEqual,
        Symbol::Less => BinaryOperator::Less,
        Symbol::LessEqual => BinaryOperator::LessEqual,
        Symbol::Greater => BinaryOperator::Greater,
        Symbol::GreaterEqual => BinaryOperator::GreaterEqual,
        Symbol::And => BinaryOperator::And,
        Symbol::Or => BinaryOperator::Or,
        Symbol::Bang
        | Symbol::Assign
        | Symbol::Question
        | Symbol::Colon
        | Symbol::Comma
        | Symbol::Semicolon
        | Symbol::Open
        | Symbol::Close => return None,
    })
}

fn given(count: usize) -> String {
    match count {
        0 => "are none".to_owned(),
        1 => "is 1".to_owned(),
        _ => format!("are {count}"),
    }
}

fn too_deep(span: Span) -> Problem {
    Problem::new(ErrorKind::TooDeep, format!("an expression nests at most {NESTING_MAX} levels deep")).at(span)
}
