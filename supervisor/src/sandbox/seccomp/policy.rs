//! The rules of `config/seccomp/`, and what they decide for a profile.
//!
//! Invariants: a rule names calls that exist, each call stands in one rule, and every rule says why; a broken rule is an error
//! with its file and line. [`Decisions::decide`] is the plain reading of the decisions, which the emitted program is held against.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use rustix::io::Errno;
use serde::Deserialize;
use toml::Spanned;

use super::evaluate::Data;
use super::numbers::{self, ARCH_X86_64, Abi, X32_BIT};

/// The files of rules, as they are named in errors.
const RULES: [(&str, &str); 4] = [
    ("config/seccomp/allowed.toml", include_str!("../../../../config/seccomp/allowed.toml")),
    ("config/seccomp/checked.toml", include_str!("../../../../config/seccomp/checked.toml")),
    ("config/seccomp/refused.toml", include_str!("../../../../config/seccomp/refused.toml")),
    ("config/seccomp/killed.toml", include_str!("../../../../config/seccomp/killed.toml")),
];
const DEFAULTS: (&str, &str) =
    ("config/seccomp/defaults.toml", include_str!("../../../../config/seccomp/defaults.toml"));
const CONSTANTS: (&str, &str) =
    ("config/seccomp/constants.toml", include_str!("../../../../config/seccomp/constants.toml"));

/// The errnos that rules may answer with.
const ERRNOS: [(&str, Errno); 7] = [
    ("EACCES", Errno::ACCESS),
    ("EAFNOSUPPORT", Errno::AFNOSUPPORT),
    ("EINVAL", Errno::INVAL),
    ("ENOPROTOOPT", Errno::NOPROTOOPT),
    ("ENOSYS", Errno::NOSYS),
    ("EPERM", Errno::PERM),
    ("EPROTONOSUPPORT", Errno::PROTONOSUPPORT),
];

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It is made.
    Allow,
    /// It is not made, and returns this.
    Errno(u16),
    /// It is not made, and the process ends by SIGSYS.
    Kill,
    /// pid 1 is asked. Without a listener it returns ENOSYS.
    Notify,
}

impl Action {
    const KILL: u32 = 0x8000_0000;
    const ERRNO: u32 = 0x0005_0000;
    const NOTIFY: u32 = 0x7fc0_0000;
    const ALLOW: u32 = 0x7fff_0000;

    /// As a filter answers it: `SECCOMP_RET_*`.
    pub fn to_kernel(self) -> u32 {
        match self {
            Self::Allow => Self::ALLOW,
            Self::Errno(errno) => Self::ERRNO | u32::from(errno),
            Self::Kill => Self::KILL,
            Self::Notify => Self::NOTIFY,
        }
    }

    /// The action that a filter answered; none if it is none of these.
    pub fn from_kernel(answer: u32) -> Option<Self> {
        match (answer & 0xffff_0000, answer as u16) {
            (Self::ALLOW, 0) => Some(Self::Allow),
            (Self::ERRNO, errno) => Some(Self::Errno(errno)),
            (Self::KILL, 0) => Some(Self::Kill),
            (Self::NOTIFY, 0) => Some(Self::Notify),
            _ => None,
        }
    }

    /// The action of that name.
    fn named(name: &str) -> Option<Self> {
        match name {
            "allow" => Some(Self::Allow),
            "kill" => Some(Self::Kill),
            "notify" => Some(Self::Notify),
            name => {
                let (_, errno) = ERRNOS.iter().find(|(known, _)| *known == name)?;
                u16::try_from(errno.raw_os_error()).ok().map(Self::Errno)
            }
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allow"),
            Self::Kill => f.write_str("kill"),
            Self::Notify => f.write_str("notify"),
            Self::Errno(number) => match ERRNOS.iter().find(|(_, known)| known.raw_os_error() == i32::from(*number)) {
                Some((name, _)) => f.write_str(name),
                None => write!(f, "errno {number}"),
            },
        }
    }
}

/// A permission that changes what calls are answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Executing programs, any time.
    ExecuteCode,
}

impl Permission {
    /// As manifests and the configuration write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExecuteCode => "execute_code",
        }
    }
}

/// What of a plugin's grant and configuration changes its filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Whether `execute_code` is granted.
    pub execution: Execution,
    /// Whether `trace_denials` is set.
    pub denials: Denials,
}

/// How often a plugin may execute a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// Once, to become what it is: pid 1 is asked, and lets the first through.
    Once,
    /// Whenever it wants.
    Any,
}

/// Who answers a call that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denials {
    /// The kernel.
    Answered,
    /// pid 1, which writes it down first and then gives the same errno.
    Traced,
}

impl Profile {
    /// All there are, the base first.
    pub const ALL: [Self; 4] = [
        Self { execution: Execution::Once, denials: Denials::Answered },
        Self { execution: Execution::Any, denials: Denials::Answered },
        Self { execution: Execution::Once, denials: Denials::Traced },
        Self { execution: Execution::Any, denials: Denials::Traced },
    ];

    /// Whether the filter needs a listener from the start.
    pub fn notifies(&self) -> bool {
        self.execution == Execution::Once || self.denials == Denials::Traced
    }

    fn holds(&self, permission: Permission) -> bool {
        match permission {
            Permission::ExecuteCode => self.execution == Execution::Any,
        }
    }

    fn answer(&self, action: Action) -> Action {
        match (action, self.denials) {
            (Action::Errno(_), Denials::Traced) => Action::Notify,
            (action, _) => action,
        }
    }
}

/// What is wrong with the rules, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}, line {line}: {problem}")]
pub struct PolicyError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, as a sentence.
    pub problem: String,
}

/// The rules, read.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    /// The rule of each call that has one.
    by_number: BTreeMap<u32, usize>,
    known: Otherwise,
    unknown: Otherwise,
    foreign: Otherwise,
    x32: Otherwise,
}

/// One rule, for one or more calls.
#[derive(Clone, Debug)]
pub struct Rule {
    leaf: Leaf,
    /// The permission that it needs, and what holds without.
    needs: Option<(Permission, Action)>,
    reason: String,
}

impl Rule {
    /// The permission that it needs.
    pub fn permission(&self) -> Option<Permission> {
        self.needs.map(|(permission, _)| permission)
    }
}

/// What holds where no rule says otherwise.
#[derive(Clone, Debug)]
struct Otherwise {
    action: Action,
    reason: String,
}

/// What becomes of the calls of one range of numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Leaf {
    /// This, whatever the arguments.
    Always(Action),
    /// It depends on them.
    Checked(Checks),
}

/// Cases in order; the first that fits decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Checks {
    /// What is looked for.
    pub cases: Vec<Case>,
    /// What holds if nothing fits.
    pub otherwise: Action,
}

/// One case: if all conditions hold, this.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Case {
    /// At least one.
    pub when: Vec<Condition>,
    /// What becomes of the call then.
    pub action: Action,
}

/// What an argument has to be like.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Which one, 0 to 5.
    pub argument: u8,
    /// How much of it counts.
    pub width: Width,
    /// What it is held against.
    pub test: Test,
}

/// How much of an argument counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// The lower 32 bits, as the kernel takes it for an int.
    Lower,
    /// All 64.
    Whole,
}

/// What an argument is held against.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Test {
    /// Under the mask it is one of these, of which there is one at least.
    Is {
        /// All ones if everything counts.
        mask: u64,
        /// What it may be.
        values: Vec<u64>,
    },
    /// It has one of these bits.
    Any(u64),
}

impl Condition {
    fn holds(&self, data: &Data) -> bool {
        let argument = data.arguments[usize::from(self.argument)];
        let argument = match self.width {
            Width::Lower => argument & u64::from(u32::MAX),
            Width::Whole => argument,
        };
        match &self.test {
            Test::Is { mask, values } => values.contains(&(argument & mask)),
            Test::Any(bits) => argument & bits != 0,
        }
    }
}

impl Leaf {
    fn decide(&self, data: &Data) -> Action {
        match self {
            Self::Always(action) => *action,
            Self::Checked(checks) => {
                let fits = |case: &&Case| case.when.iter().all(|condition| condition.holds(data));
                checks.cases.iter().find(fits).map_or(checks.otherwise, |case| case.action)
            }
        }
    }

    /// As it is for a profile; a case that changes nothing is left out.
    fn answered(&self, profile: &Profile) -> Self {
        match self {
            Self::Always(action) => Self::Always(profile.answer(*action)),
            Self::Checked(checks) => {
                let otherwise = profile.answer(checks.otherwise);
                let mut cases = checks.cases.clone();
                for case in &mut cases {
                    case.action = profile.answer(case.action);
                }
                while cases.last().is_some_and(|case| case.action == otherwise) {
                    cases.pop();
                }
                if cases.is_empty() { Self::Always(otherwise) } else { Self::Checked(Checks { cases, otherwise }) }
            }
        }
    }
}

/// What becomes of every call there can be, for one profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decisions {
    /// A call of another architecture.
    pub foreign: Action,
    /// A call of x32.
    pub x32: Action,
    /// From which number on what holds; the first is 0, the last goes on to the mark of x32.
    ranges: Vec<(u32, Leaf)>,
}

impl Decisions {
    /// Decisions of that shape. Neighbours that are equal become one.
    ///
    /// # Panics
    /// When the ranges do not begin with 0 and rise from there, below the mark of x32.
    pub fn new(foreign: Action, x32: Action, ranges: impl IntoIterator<Item = (u32, Leaf)>) -> Self {
        let mut merged: Vec<(u32, Leaf)> = Vec::new();
        let mut next = 0;
        for (from, leaf) in ranges {
            assert!(from >= next && from < X32_BIT && (from == 0) == merged.is_empty(), "ranges rise from 0");
            next = from + 1;
            if merged.last().is_none_or(|(_, last)| *last != leaf) {
                merged.push((from, leaf));
            }
        }
        assert!(!merged.is_empty(), "there is a range from 0 on");
        Self { foreign, x32, ranges: merged }
    }

    /// From which number on what holds.
    pub fn ranges(&self) -> &[(u32, Leaf)] {
        &self.ranges
    }

    /// What becomes of this call.
    pub fn decide(&self, data: &Data) -> Action {
        if data.arch != ARCH_X86_64 {
            return self.foreign;
        }
        if data.number >= X32_BIT {
            return self.x32;
        }
        let range = self.ranges.iter().rev().find(|(from, _)| *from <= data.number);
        range.expect("the first range begins with 0").1.decide(data)
    }
}

impl fmt::Display for Decisions {
    /// One line for each range, with the names of its calls.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "another architecture: {}", self.foreign)?;
        writeln!(f, "x32: {}", self.x32)?;
        for (place, (from, leaf)) in self.ranges.iter().enumerate() {
            let below = self.ranges.get(place + 1).map_or(X32_BIT, |(from, _)| *from);
            match below - from {
                1 => write!(f, "{from}:")?,
                _ => write!(f, "{from}-{}:", below - 1)?,
            }
            for (_, name) in numbers::calls(Abi::X86_64).range(*from..below) {
                write!(f, " {name}")?;
            }
            match leaf {
                Leaf::Always(action) => writeln!(f, " -> {action}")?,
                Leaf::Checked(checks) => {
                    writeln!(f)?;
                    for case in &checks.cases {
                        let when: Vec<String> = case.when.iter().map(ToString::to_string).collect();
                        writeln!(f, "    {} -> {}", when.join(" and "), case.action)?;
                    }
                    writeln!(f, "    otherwise -> {}", checks.otherwise)?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.width {
            Width::Lower => write!(f, "int {}", self.argument)?,
            Width::Whole => write!(f, "long {}", self.argument)?,
        }
        match &self.test {
            Test::Any(bits) => write!(f, " has {bits:#x}"),
            Test::Is { mask, values } => {
                if *mask != u64::MAX {
                    write!(f, " & {mask:#x}")?;
                }
                let values: Vec<String> = values.iter().map(|value| format!("{value:#x}")).collect();
                write!(f, " is {}", values.join("|"))
            }
        }
    }
}

impl Policy {
    /// The rules that this build was made with.
    pub fn shipped() -> Result<Self, PolicyError> {
        Self::parse(&RULES, DEFAULTS, CONSTANTS)
    }

    /// Reads rules, each file with its name: those, what holds elsewhere, and the names of numbers.
    pub fn parse(rules: &[(&str, &str)], defaults: (&str, &str), constants: (&str, &str)) -> Result<Self, PolicyError> {
        let constants: BTreeMap<String, u64> = File::new(constants).read()?;
        let file = File::new(defaults);
        let RawDefaults { known, unknown, foreign, x32 } = file.read()?;
        let mut policy = Self {
            rules: Vec::new(),
            by_number: BTreeMap::new(),
            known: file.default(known)?,
            unknown: file.default(unknown)?,
            foreign: file.default(foreign)?,
            x32: file.default(x32)?,
        };
        for named in rules {
            let file = File::new(*named);
            let RawRules { rule } = file.read()?;
            for rule in rule {
                policy.add(&file, rule, &constants)?;
            }
        }
        Ok(policy)
    }

    /// The rule in which that call stands.
    pub fn rule(&self, number: u32) -> Option<&Rule> {
        self.by_number.get(&number).map(|place| &self.rules[*place])
    }

    /// Why that call is decided as it is.
    pub fn reason(&self, number: u32) -> &str {
        match self.rule(number) {
            Some(rule) => &rule.reason,
            None => &self.elsewhere(number).reason,
        }
    }

    /// What becomes of every call there can be.
    pub fn decisions(&self, profile: &Profile) -> Decisions {
        // No call is above the highest that is known; from there on nothing changes.
        let ranges = (0..=numbers::highest_known() + 1).map(|number| {
            let leaf = match self.rule(number) {
                Some(rule) => match rule.needs {
                    Some((permission, without)) if !profile.holds(permission) => Leaf::Always(without),
                    _ => rule.leaf.clone(),
                },
                None => Leaf::Always(self.elsewhere(number).action),
            };
            (number, leaf.answered(profile))
        });
        Decisions::new(self.foreign.action, self.x32.action, ranges)
    }

    fn elsewhere(&self, number: u32) -> &Otherwise {
        match numbers::name(Abi::X86_64, number) {
            Some(_) => &self.known,
            None => &self.unknown,
        }
    }

    fn add(
        &mut self,
        file: &File<'_>,
        raw: Spanned<RawRule>,
        constants: &BTreeMap<String, u64>,
    ) -> Result<(), PolicyError> {
        let place = raw.span();
        let raw = raw.into_inner();
        let otherwise = file.action(&raw.action)?;
        let mut cases = Vec::new();
        for case in &raw.case {
            if case.when.is_empty() {
                return Err(file.error(&case.action.span(), "a case without a condition is the rule's own `action`"));
            }
            let when: Result<_, _> = case.when.iter().map(|raw| file.condition(raw, constants)).collect();
            cases.push(Case { when: when?, action: file.action(&case.action)? });
        }
        let leaf = if cases.is_empty() { Leaf::Always(otherwise) } else { Leaf::Checked(Checks { cases, otherwise }) };
        let needs = match (raw.permission, &raw.without) {
            (Some(permission), Some(without)) => Some((permission, file.action(without)?)),
            (None, None) => None,
            _ => return Err(file.error(&place, "`permission` and `without` go together")),
        };
        file.has_reason(&raw.reason)?;
        if raw.calls.is_empty() {
            return Err(file.error(&place, "a rule without calls is none"));
        }
        for call in &raw.calls {
            let name = call.get_ref();
            let Some(number) = numbers::number(name) else {
                return Err(file.error(&call.span(), format!("no system call has the name `{name}`")));
            };
            if self.by_number.insert(number, self.rules.len()).is_some() {
                return Err(file.error(&call.span(), format!("`{name}` has a rule already")));
            }
        }
        self.rules.push(Rule { leaf, needs, reason: raw.reason.into_inner() });
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDefaults {
    known: RawDefault,
    unknown: RawDefault,
    foreign: RawDefault,
    x32: RawDefault,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDefault {
    action: Spanned<String>,
    reason: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRules {
    rule: Vec<Spanned<RawRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    calls: Vec<Spanned<String>>,
    action: Spanned<String>,
    permission: Option<Permission>,
    without: Option<Spanned<String>>,
    reason: Spanned<String>,
    #[serde(default)]
    case: Vec<RawCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    when: Vec<Spanned<RawCondition>>,
    action: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCondition {
    argument: u8,
    width: Option<u8>,
    mask: Option<Spanned<RawNumber>>,
    is: Option<Vec<Spanned<RawNumber>>>,
    any: Option<Vec<Spanned<RawNumber>>>,
}

/// A number, or the name of one.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawNumber {
    Number(u64),
    Name(String),
}

/// A file while it is read: what errors need to say where.
struct File<'a> {
    name: &'a str,
    text: &'a str,
}

impl<'a> File<'a> {
    fn new((name, text): (&'a str, &'a str)) -> Self {
        Self { name, text }
    }

    fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, PolicyError> {
        toml::from_str(self.text).map_err(|error| self.error(&error.span().unwrap_or_default(), error.message()))
    }

    fn error(&self, place: &Range<usize>, problem: impl Into<String>) -> PolicyError {
        let before = self.text.get(..place.start).unwrap_or_default();
        PolicyError { file: self.name.to_owned(), line: before.matches('\n').count() + 1, problem: problem.into() }
    }

    fn action(&self, name: &Spanned<String>) -> Result<Action, PolicyError> {
        Action::named(name.get_ref()).ok_or_else(|| {
            let errnos = ERRNOS.map(|(name, _)| name).join(", ");
            let problem = format!("`{}` is no action: allow, kill, notify, {errnos}", name.get_ref());
            self.error(&name.span(), problem)
        })
    }

    fn has_reason(&self, reason: &Spanned<String>) -> Result<(), PolicyError> {
        match reason.get_ref().trim() {
            "" => Err(self.error(&reason.span(), "every rule says why")),
            _ => Ok(()),
        }
    }

    fn default(&self, raw: RawDefault) -> Result<Otherwise, PolicyError> {
        self.has_reason(&raw.reason)?;
        Ok(Otherwise { action: self.action(&raw.action)?, reason: raw.reason.into_inner() })
    }

    fn number(&self, raw: &Spanned<RawNumber>, constants: &BTreeMap<String, u64>) -> Result<u64, PolicyError> {
        match raw.get_ref() {
            RawNumber::Number(number) => Ok(*number),
            RawNumber::Name(name) => constants
                .get(name)
                .copied()
                .ok_or_else(|| self.error(&raw.span(), format!("constants.toml has no number for `{name}`"))),
        }
    }

    fn condition(
        &self,
        raw: &Spanned<RawCondition>,
        constants: &BTreeMap<String, u64>,
    ) -> Result<Condition, PolicyError> {
        let place = raw.span();
        let raw = raw.get_ref();
        if raw.argument > 5 {
            return Err(self.error(&place, "arguments are counted from 0 to 5"));
        }
        let (width, ones) = match raw.width {
            None | Some(32) => (Width::Lower, u64::from(u32::MAX)),
            Some(64) => (Width::Whole, u64::MAX),
            Some(_) => return Err(self.error(&place, "`width` is 32 or 64")),
        };
        let numbers = |raw: &[Spanned<RawNumber>], within: u64| {
            if raw.is_empty() {
                return Err(self.error(&place, "an empty list fits nothing"));
            }
            let mut numbers = Vec::new();
            for raw in raw {
                let number = self.number(raw, constants)?;
                if number & !within != 0 {
                    return Err(self.error(&raw.span(), format!("{number:#x} has bits that are not looked at")));
                }
                numbers.push(number);
            }
            Ok(numbers)
        };
        let mask = match &raw.mask {
            Some(raw) => self.number(raw, constants)?,
            None => u64::MAX,
        };
        let test = match (&raw.is, &raw.any) {
            (Some(values), None) => Test::Is { mask, values: numbers(values, mask & ones)? },
            (None, Some(bits)) if raw.mask.is_none() => {
                let bits = numbers(bits, ones)?.into_iter().fold(0, |all, bit| all | bit);
                if bits == 0 {
                    return Err(self.error(&place, "no bits fit nothing"));
                }
                Test::Any(bits)
            }
            _ => return Err(self.error(&place, "a condition has either `is`, with or without `mask`, or `any`")),
        };
        Ok(Condition { argument: raw.argument, width, test })
    }
}
