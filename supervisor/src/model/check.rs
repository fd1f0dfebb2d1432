//! What can be found odd about a program before it is started, and what follows from that.
//!
//! Elsewhere: programs are looked at in `trust::elf` and `trust::libraries`; what the operator says is `config::checks`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Hardly meant.
    Warning,
    /// It cannot run as it is, or makes an attack on it easy.
    Error,
}

/// What becomes of a program with such a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is used.
    Allow,
    /// It is used, and a warning says so.
    Warn,
    /// It is not used.
    Refuse,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// It cannot be read as an ELF program.
    Malformed,
    /// The loader that it names is not there in the sandbox.
    InterpreterMissing,
    /// A library that it needs is not there in the sandbox.
    MissingLibrary,
    /// A library that it needs is none that the operator allows.
    ForbiddenLibrary,
    /// Its code is written to when it is loaded.
    TextRelocations,
    /// Its stack can be executed.
    ExecutableStack,
    /// It looks for libraries outside of its package and of where they usually are.
    ForeignRpath,
    /// It has memory that can be written and executed.
    WritableCode,
    /// It needs no loader and no libraries.
    Static,
    /// It is a script, and its interpreter is none of the runtimes that the operator lists.
    UnlistedInterpreter,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::InterpreterMissing,
        Self::MissingLibrary,
        Self::ForbiddenLibrary,
        Self::TextRelocations,
        Self::ExecutableStack,
        Self::ForeignRpath,
        Self::WritableCode,
        Self::Static,
        Self::UnlistedInterpreter,
    ];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::InterpreterMissing => "interpreter_missing",
            Self::MissingLibrary => "missing_library",
            Self::ForbiddenLibrary => "forbidden_library",
            Self::TextRelocations => "text_relocations",
            Self::ExecutableStack => "executable_stack",
            Self::ForeignRpath => "foreign_rpath",
            Self::WritableCode => "writable_code",
            Self::Static => "static",
            Self::UnlistedInterpreter => "unlisted_interpreter",
        }
    }

    /// How bad it is.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::Malformed
            | Self::InterpreterMissing
            | Self::MissingLibrary
            | Self::ForbiddenLibrary
            | Self::TextRelocations
            | Self::ExecutableStack
            | Self::ForeignRpath => Severity::Error,
            Self::WritableCode => Severity::Warning,
            Self::Static | Self::UnlistedInterpreter => Severity::Info,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub code: Code,
    /// How bad that is.
    pub severity: Severity,
    /// A sentence with the names in question.
    pub detail: String,
    /// In which file of the package.
    #[serde(rename = "where")]
    pub place: String,
}

impl Finding {
    /// With the severity of its code.
    #[must_use]
    pub fn new(code: Code, place: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { code, severity: code.severity(), detail: detail.into(), place: place.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.code, self.place, self.detail)
    }
}

/// What the operator says of findings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checks {
    /// Of single codes; of the others their severity decides.
    pub verdicts: Vec<(Code, Verdict)>,
    /// The libraries of the host that a program may need: exact names, and beginnings that end in `*`. All, where this is not given.
    pub libraries: Option<Vec<String>>,
}

impl Checks {
    /// What becomes of a program with that finding.
    #[must_use]
    pub fn verdict(&self, code: Code) -> Verdict {
        let said = self.verdicts.iter().find(|(said, _)| *said == code).map(|(_, verdict)| *verdict);
        said.unwrap_or(match code.severity() {
            Severity::Info => Verdict::Allow,
            Severity::Warning => Verdict::Warn,
            Severity::Error => Verdict::Refuse,
        })
    }

    /// Whether a program may need that library of the host.
    #[must_use]
    pub fn allow_library(&self, name: &str) -> bool {
        self.libraries.as_ref().is_none_or(|allowed| {
            allowed.iter().any(|allowed| match allowed.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => name == allowed,
            })
        })
    }

    /// Those of the findings for which that is the verdict.
    pub fn judged<'a>(&self, findings: &'a [Finding], verdict: Verdict) -> impl Iterator<Item = &'a Finding> {
        findings.iter().filter(move |finding| self.verdict(finding.code) == verdict)
    }
}
