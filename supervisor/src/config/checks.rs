//! The table `[checks]`: what becomes of a package whose program has such a finding.
//!
//! Elsewhere: what the findings are is `model::check`.

use serde::Deserialize;

use crate::model::check::{Checks, Code, Verdict};

/// The table as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    malformed: Option<Verdict>,
    interpreter_missing: Option<Verdict>,
    missing_library: Option<Verdict>,
    forbidden_library: Option<Verdict>,
    text_relocations: Option<Verdict>,
    executable_stack: Option<Verdict>,
    foreign_rpath: Option<Verdict>,
    writable_code: Option<Verdict>,
    r#static: Option<Verdict>,
    unlisted_interpreter: Option<Verdict>,
    libraries: Option<Vec<String>>,
}

impl Table {
    pub(super) fn understand(self) -> Checks {
        let said = |code| match code {
            Code::Malformed => self.malformed,
            Code::InterpreterMissing => self.interpreter_missing,
            Code::MissingLibrary => self.missing_library,
            Code::ForbiddenLibrary => self.forbidden_library,
            Code::TextRelocations => self.text_relocations,
            Code::ExecutableStack => self.executable_stack,
            Code::ForeignRpath => self.foreign_rpath,
            Code::WritableCode => self.writable_code,
            Code::Static => self.r#static,
            Code::UnlistedInterpreter => self.unlisted_interpreter,
        };
        let verdicts = Code::ALL.into_iter().filter_map(|code| Some((code, said(code)?))).collect();
        Checks { verdicts, libraries: self.libraries }
    }
}
