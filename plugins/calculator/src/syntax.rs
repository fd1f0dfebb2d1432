//! The tree of an expression, and its text.
//!
//! The nodes lie in one list, children before their parents and in the order of the source: dropping it needs no stack,
//! and a pass over all nodes is a loop. A chain such as `1 + 1 + … + 1` is deep to the left only, where every walk
//! loops; to the right, walks recurse, and the parser bounds that depth.
//!
//! Two trees are equal if they mean the same, wherever their nodes stood. The text of a tree, parsed again, gives an
//! equal tree, provided that the text is within the bounds of an expression.

use std::fmt;

use dashu_ratio::RBig;

use crate::error::Span;
use crate::functions::Function;

/// A parsed expression: one or more statements, the last of which gives the result.
#[derive(Debug, Clone)]
pub struct Tree {
    pub(crate) source: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) statements: Vec<Statement>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// The variable that the value is assigned to.
    pub target: Option<String>,
    pub root: NodeId,
}

/// A node's place in [`Tree::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) usize);

impl NodeId {
    pub fn index(self) -> usize {
        self.0
    }
}

#[derive(Debug, Clone)]
pub struct Node {
    pub kind: NodeKind,
    /// The bytes of the source that the node was read from, with the parentheses around it.
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq)]
pub enum NodeKind {
    Number(Literal),
    Boolean(bool),
    Name(String),
    Unary {
        operator: UnaryOperator,
        operand: NodeId,
    },
    Binary {
        operator: BinaryOperator,
        left: NodeId,
        right: NodeId,
    },
    /// `condition ? then : otherwise`, also written `if(condition, then, otherwise)`. One branch is evaluated.
    Conditional {
        condition: NodeId,
        then: NodeId,
        otherwise: NodeId,
    },
    Call {
        function: &'static Function,
        arguments: Vec<NodeId>,
    },
}

/// A number as it was written.
#[derive(Debug, Clone)]
pub struct Literal {
    pub text: String,
    pub(crate) value: RBig,
}

impl PartialEq for Literal {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnaryOperator {
    Negate,
    Plus,
    Not,
    /// `n!`
    Factorial,
    /// `n!!`: every second number down from n.
    DoubleFactorial,
}

impl UnaryOperator {
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Negate => "-",
            Self::Plus => "+",
            Self::Not => "not",
            Self::Factorial => "!",
            Self::DoubleFactorial => "!!",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BinaryOperator {
    Add,
    Subtract,
    Multiply,
    Divide,
    /// `//`: the quotient rounded down.
    FloorDivide,
    /// `%`: what `//` leaves; it has the sign of the divisor.
    Remainder,
    /// `^` and `**`.
    Power,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    And,
    Or,
}

impl BinaryOperator {
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::FloorDivide => "//",
            Self::Remainder => "%",
            Self::Power => "^",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::And => "and",
            Self::Or => "or",
        }
    }

    pub(crate) fn is_comparison(self) -> bool {
        self.level() == Level::Comparison
    }

    pub(crate) fn level(self) -> Level {
        match self {
            Self::Or => Level::Or,
            Self::And => Level::And,
            Self::Equal | Self::NotEqual | Self::Less | Self::LessEqual | Self::Greater | Self::GreaterEqual => {
                Level::Comparison
            }
            Self::Add | Self::Subtract => Level::Sum,
            Self::Multiply | Self::Divide | Self::FloorDivide | Self::Remainder => Level::Product,
            Self::Power => Level::Power,
        }
    }

    /// How tightly an operand must bind to stand on the left without parentheses.
    pub(crate) fn left_level(self) -> Level {
        match self.level() {
            // `a < b < c` is refused, and `a ^ b ^ c` means `a ^ (b ^ c)`.
            Level::Comparison => Level::Sum,
            Level::Power => Level::Postfix,
            level => level,
        }
    }

    /// How tightly an operand must bind to stand on the right without parentheses.
    pub(crate) fn right_level(self) -> Level {
        match self.level() {
            Level::Or => Level::And,
            Level::And => Level::Not,
            Level::Comparison => Level::Sum,
            Level::Sum => Level::Product,
            Level::Product => Level::Unary,
            // The exponent may be negative, and may itself be a power: `2^-3^2`.
            _ => Level::Unary,
        }
    }
}

/// How tightly an operator binds, from the loosest to the tightest. `-2^2` is `-(2^2)`, and `2^3!` is `2^(3!)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Conditional,
    Or,
    And,
    Not,
    Comparison,
    Sum,
    Product,
    Unary,
    Power,
    Postfix,
    Primary,
}

impl Tree {
    /// The expression that was parsed.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// All nodes, children before their parents.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    fn level(&self, id: NodeId) -> Level {
        match &self.node(id).kind {
            NodeKind::Number(_) | NodeKind::Boolean(_) | NodeKind::Name(_) | NodeKind::Call { .. } => Level::Primary,
            NodeKind::Unary { operator, .. } => match operator {
                UnaryOperator::Negate | UnaryOperator::Plus => Level::Unary,
                UnaryOperator::Not => Level::Not,
                UnaryOperator::Factorial | UnaryOperator::DoubleFactorial => Level::Postfix,
            },
            NodeKind::Binary { operator, .. } => operator.level(),
            NodeKind::Conditional { .. } => Level::Conditional,
        }
    }

    /// Writes a node, in parentheses if it binds less tightly than its surroundings ask for.
    fn write(&self, f: &mut fmt::Formatter<'_>, id: NodeId, level: Level) -> fmt::Result {
        if self.level(id) < level {
            f.write_str("(")?;
            self.write(f, id, Level::Conditional)?;
            return f.write_str(")");
        }
        // Down the left side as long as no parentheses are due there, then back up.
        let mut chain = Vec::new();
        let mut at = id;
        while let NodeKind::Binary { operator, left, right } = &self.node(at).kind {
            chain.push((*operator, *right));
            at = *left;
            if self.level(at) < operator.left_level() {
                break;
            }
        }
        match chain.last() {
            Some((operator, _)) => self.write_other(f, at, operator.left_level())?,
            None => self.write_other(f, at, level)?,
        }
        for (operator, right) in chain.iter().rev() {
            match operator {
                BinaryOperator::Power => f.write_str("^")?,
                _ => write!(f, " {} ", operator.symbol())?,
            }
            self.write(f, *right, operator.right_level())?;
        }
        Ok(())
    }

    /// Writes a node that is no binary operator, or one that needs parentheses.
    fn write_other(&self, f: &mut fmt::Formatter<'_>, id: NodeId, level: Level) -> fmt::Result {
        if self.level(id) < level {
            return self.write(f, id, level);
        }
        match &self.node(id).kind {
            NodeKind::Number(literal) => f.write_str(&literal.text),
            NodeKind::Boolean(value) => write!(f, "{value}"),
            NodeKind::Name(name) => f.write_str(name),
            NodeKind::Unary { operator, operand } => match operator {
                UnaryOperator::Negate | UnaryOperator::Plus => {
                    f.write_str(operator.symbol())?;
                    self.write(f, *operand, Level::Unary)
                }
                UnaryOperator::Not => {
                    f.write_str("not ")?;
                    self.write(f, *operand, Level::Not)
                }
                UnaryOperator::Factorial | UnaryOperator::DoubleFactorial => {
                    self.write(f, *operand, Level::Primary)?;
                    f.write_str(operator.symbol())
                }
            },
            NodeKind::Binary { .. } => self.write(f, id, level),
            NodeKind::Conditional { condition, then, otherwise } => {
                self.write(f, *condition, Level::Or)?;
                f.write_str(" ? ")?;
                self.write(f, *then, Level::Conditional)?;
                f.write_str(" : ")?;
                self.write(f, *otherwise, Level::Conditional)
            }
            NodeKind::Call { function, arguments } => {
                write!(f, "{}(", function.name)?;
                for (index, argument) in arguments.iter().enumerate() {
                    if 0 < index {
                        f.write_str(", ")?;
                    }
                    self.write(f, *argument, Level::Conditional)?;
                }
                f.write_str(")")
            }
        }
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, statement) in self.statements.iter().enumerate() {
            if 0 < index {
                f.write_str("; ")?;
            }
            if let Some(target) = &statement.target {
                write!(f, "{target} = ")?;
            }
            self.write(f, statement.root, Level::Conditional)?;
        }
        Ok(())
    }
}

impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        // The order of nodes follows from the shape of the tree alone, so equal lists are equal trees.
        self.statements == other.statements
            && self.nodes.iter().map(|node| &node.kind).eq(other.nodes.iter().map(|node| &node.kind))
    }
}
