//! What a hostile plugin tries, row by row: the attempts, what each has to meet, what stops it, and the tests that show it.
//!
//! Three things are held against this table. `isolation` makes every attempt in a plugin of a real daemon; `fences` makes it with
//! layers of the confinement taken away, one at a time and all together; and the table of `docs/security.md` is this one, written by
//! [`page`]. Names and numbers of rows never change.

mod table;

pub use table::{CHAOS, ROWS, WIRE};

/// What stops an attempt. The words are those of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// The private root: what is not in it has no name, what is in it is read-only but for its own folders.
    Root,
    /// Mounts of its own folders, where nothing can be executed.
    NoExec,
    /// Landlock, from that version on.
    Landlock(u32),
    /// The system call filter.
    Filter,
    /// No capabilities, no user 0 inside, no new privileges.
    Powers,
    /// The network namespace.
    Network,
    /// Limits of each process.
    Limits,
    /// The pid namespace.
    Processes,
    /// Its user on the host, who owns nothing and may nothing. Only of a daemon that is root.
    User,
    /// The user namespace: whatever it becomes in there, it has no rights on the host.
    UserNamespace,
    /// The kernel itself, whoever asks.
    Kernel,
    /// The launcher, which opens and closes what a plugin begins with, and its pid 1.
    Launcher,
    /// The daemon's own code.
    Daemon,
    /// The plugin's cgroup, with controllers.
    Cgroup,
}

impl Fence {
    /// Those that a test can take away and leave the others.
    #[must_use]
    pub fn can_be_taken_away(self) -> bool {
        matches!(
            self,
            Self::Root
                | Self::NoExec
                | Self::Landlock(_)
                | Self::Filter
                | Self::Powers
                | Self::Network
                | Self::Limits
                | Self::Cgroup
        )
    }

    fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::NoExec => "noexec",
            Self::Landlock(1) => "Landlock",
            Self::Landlock(4) => "Landlock 4",
            Self::Landlock(_) => "Landlock 6",
            Self::Filter => "filter",
            Self::Powers => "capabilities",
            Self::Network => "network",
            Self::Limits => "limits",
            Self::Processes => "pids",
            Self::User => "user",
            Self::UserNamespace => "user namespace",
            Self::Kernel => "kernel",
            Self::Launcher => "launcher",
            Self::Daemon => "daemon",
            Self::Cgroup => "cgroup",
        }
    }
}

/// What shows that an attempt can succeed, so that its failure means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bites {
    /// Without its fences it succeeds.
    Without,
    /// The same, but never on a host that is anybody's: only in the guest.
    WithoutInTheGuest,
    /// Without its fences it meets something else: the kernel's own answer, which differs from host to host. Where the kernel says the
    /// same as the fence, as it lacks the thing altogether, this is not shown.
    Otherwise,
    /// A process outside of any confinement succeeds.
    Outside,
    /// It succeeds inside: this is what a plugin may do.
    Allowed,
    /// Not shown for this attempt, which would harm, or of which no fence can be taken away; another one of the row is shown.
    Sibling,
}

/// One attempt of a row.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// Its name in the hostile plugin.
    pub what: &'static str,
    /// What it may meet: `ok`, an error's name, `SIGSYS`, or what it sees.
    pub met: &'static [&'static str],
    /// Each of these stops it, whatever became of the others.
    pub fences: &'static [Fence],
    pub bites: Bites,
}

/// How a row is shown.
#[derive(Debug, Clone, Copy)]
pub enum Shown {
    /// By attempts that `isolation::every_row_meets_what_the_table_says` and `fences` make.
    Attempts(&'static [Attempt]),
    /// By tests of its own.
    Tests { outcome: &'static str, fences: &'static [Fence] },
}

/// A row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub number: u32,
    pub name: &'static str,
    pub attempt: &'static str,
    pub shown: Shown,
    /// Tests beside those of the table, as `file::test`: `tests/system`, or a folder and file from the root of the sources.
    pub tests: &'static [&'static str],
    /// Where it is shown.
    pub tiers: &'static str,
}

/// One thing that goes wrong on the wire, or of the kind of chaos, and the test that shows it.
#[derive(Debug, Clone, Copy)]
pub struct Mishap {
    pub what: &'static str,
    pub test: &'static str,
}

impl Row {
    /// The attempts that the table makes.
    #[must_use]
    pub fn attempts(&self) -> &'static [Attempt] {
        match self.shown {
            Shown::Attempts(attempts) => attempts,
            Shown::Tests { .. } => &[],
        }
    }

    fn outcome(&self) -> String {
        let Shown::Attempts(attempts) = self.shown else {
            let Shown::Tests { outcome, .. } = self.shown else { return String::new() };
            return outcome.to_owned();
        };
        grouped(attempts, |attempt| attempt.met.iter().map(|met| format!("`{met}`")).collect::<Vec<_>>().join(" or "))
    }

    fn fences(&self) -> String {
        let words = |fences: &[Fence]| fences.iter().map(|fence| fence.word()).collect::<Vec<_>>().join(", ");
        match self.shown {
            Shown::Tests { fences, .. } => words(fences),
            Shown::Attempts(attempts) => grouped(attempts, |attempt| match attempt.fences {
                [] => "none".to_owned(),
                fences => words(fences),
            }),
        }
    }

    /// The attempts that one fence alone stops.
    fn single(&self) -> Vec<&'static str> {
        let single = |attempt: &&Attempt| attempt.fences.len() == 1;
        self.attempts().iter().filter(single).map(|attempt| attempt.what).collect()
    }
}

/// What the attempts have in common is said once; otherwise each with those that share it.
fn grouped(attempts: &[Attempt], say: impl Fn(&Attempt) -> String) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for attempt in attempts {
        let said = say(attempt);
        match groups.iter_mut().find(|(other, _)| *other == said) {
            Some((_, whats)) => whats.push(attempt.what),
            None => groups.push((said, vec![attempt.what])),
        }
    }
    match &groups[..] {
        [(said, _)] => said.clone(),
        groups => {
            groups.iter().map(|(said, whats)| format!("{}: {said}", whats.join(", "))).collect::<Vec<_>>().join("; ")
        }
    }
}

/// The part of `docs/security.md` that is made of this table.
#[must_use]
pub fn page() -> String {
    use std::fmt::Write as _;
    let mut page = String::from(
        "| # | name | attempt | outcome | stopped by each of | tiers | shown by |\n|---|---|---|---|---|---|---|\n",
    );
    for row in ROWS {
        let mut tests: Vec<&str> = Vec::new();
        if !row.attempts().is_empty() {
            tests.push("the table");
        }
        tests.extend(row.tests);
        let shown =
            tests.iter().map(|test| if *test == "the table" { (*test).to_owned() } else { format!("`{test}`") });
        let _ = writeln!(
            page,
            "| {} | `{}` | {} | {} | {} | {} | {} |",
            row.number,
            row.name,
            row.attempt,
            row.outcome(),
            row.fences(),
            row.tiers,
            shown.collect::<Vec<_>>().join(", "),
        );
    }
    page.push_str("\nStopped by one fence alone:\n\n");
    for row in ROWS {
        let single = row.single();
        if !single.is_empty() {
            let by: Vec<String> = single
                .iter()
                .map(|what| {
                    let attempt = row.attempts().iter().find(|attempt| attempt.what == *what);
                    format!("{what} ({})", attempt.map_or("", |attempt| attempt.fences[0].word()))
                })
                .collect();
            let _ = writeln!(page, "- `{}`: {}", row.name, by.join(", "));
        }
    }
    for (title, mishaps) in [("On the wire", WIRE), ("Chaos", CHAOS)] {
        let _ = write!(page, "\n| {title} | shown by |\n|---|---|\n");
        for mishap in mishaps {
            let _ = writeln!(page, "| {} | `{}` |", mishap.what, mishap.test);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn sources() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    /// The names of the tests in a file, whether they are written out or made by a macro from a list.
    fn has_test(text: &str, name: &str) -> bool {
        text.lines().any(|line| {
            let line = line.trim_start();
            ["fn", "async fn"].iter().any(|kind| line.starts_with(&format!("{kind} {name}(")))
                || line.strip_prefix(name).is_some_and(|rest| rest.starts_with(": \""))
        })
    }

    fn expect_test(name: &str) {
        let (file, test) = name.rsplit_once("::").unwrap_or_else(|| panic!("{name} names a file and a test"));
        let path = match file {
            "fences" => "tests/fences/main.rs".to_owned(),
            file if file.contains('/') => format!("{file}.rs"),
            file => format!("tests/system/{file}.rs"),
        };
        let text = std::fs::read_to_string(sources().join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(has_test(&text, test), "{path} has no test {test}");
    }

    #[test]
    fn every_row_is_there_once_and_is_shown() {
        let numbers: Vec<u32> = ROWS.iter().map(|row| row.number).collect();
        assert_eq!(numbers, (1..=59).collect::<Vec<_>>());
        let names: BTreeSet<&str> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
        for row in ROWS {
            let attempts = row.attempts();
            assert!(!attempts.is_empty() || !row.tests.is_empty(), "nothing shows {}", row.name);
            assert!(
                attempts.is_empty()
                    || attempts.iter().any(|attempt| attempt.bites != Bites::Sibling)
                    || !row.tests.is_empty(),
                "no attempt of {} is shown to succeed anywhere",
                row.name
            );
            let whats: BTreeSet<&str> = attempts.iter().map(|attempt| attempt.what).collect();
            assert_eq!(whats.len(), attempts.len(), "{}", row.name);
            for attempt in attempts {
                assert!(!attempt.met.is_empty(), "{}: {}", row.name, attempt.what);
                if matches!(attempt.bites, Bites::Without | Bites::WithoutInTheGuest | Bites::Otherwise) {
                    let whole =
                        !attempt.fences.is_empty() && attempt.fences.iter().all(|fence| fence.can_be_taken_away());
                    assert!(whole, "{}: {} has a fence that cannot be taken away", row.name, attempt.what);
                }
            }
        }
    }

    #[test]
    fn every_test_that_is_named_exists() {
        let of_rows = ROWS.iter().flat_map(|row| row.tests).copied();
        for name in of_rows.chain(WIRE.iter().chain(CHAOS).map(|mishap| mishap.test)) {
            expect_test(name);
        }
        expect_test("isolation::every_row_meets_what_the_table_says");
    }

    /// What of `tests/system` the table names is what the guest runs where nobody has chosen.
    #[test]
    fn the_guest_runs_all_of_it() {
        let script = std::fs::read_to_string(sources().join("tests/vm/inside")).expect("it is there");
        let (_, list) = script.split_once("chosen=(").expect("it says what is run");
        let chosen: BTreeSet<&str> = list.split(')').next().unwrap_or_default().split_whitespace().collect();
        let of_rows = ROWS.iter().flat_map(|row| row.tests).copied();
        for name in of_rows.chain(WIRE.iter().chain(CHAOS).map(|mishap| mishap.test)) {
            let (file, _) = name.rsplit_once("::").expect("a file and a test");
            if file != "fences" && !file.contains('/') {
                assert!(chosen.contains(format!("{file}::").as_str()), "{name} is not run in the guest");
            }
        }
    }

    /// `PALISADE_WRITE_PAGES=1` writes the page anew.
    #[test]
    fn the_page_is_the_table() {
        let path = sources().join("docs/security.md");
        let text = std::fs::read_to_string(&path).expect("it is there");
        let (begin, end) =
            ("<!-- The table begins: `make security-page` writes it. -->\n", "<!-- The table ends. -->\n");
        let (front, rest) = text.split_once(begin).expect("it says where the table begins");
        let (table, back) = rest.split_once(end).expect("it says where the table ends");
        let expected = page();
        if std::env::var_os("PALISADE_WRITE_PAGES").is_some() {
            std::fs::write(&path, format!("{front}{begin}{expected}{end}{back}")).expect("it can be written");
        } else {
            assert!(table == expected, "docs/security.md is not what the table says; `make security-page` writes it");
        }
    }
}
