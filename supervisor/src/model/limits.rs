//! How much a plugin may have: what its manifest asks for, within what the operator allows.
//!
//! The operator's word is the configuration's for that plugin, else the configuration's for all, else a default of ours; a manifest
//! can ask for less than that and never gets more. What it asked for in vain is kept, so that it can be shown. What an operator
//! says while the daemon runs goes before all of that, until the daemon ends.
//!
//! Elsewhere: `manifest` and `config` read the numbers; `sandbox` and the launcher hold plugins to them, and where the kernel
//! does not, `plugin::sampler`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::manifest::Resources;

/// The most launchers that are made before they are needed, and as many as are unless the operator says otherwise: each costs memory
/// and two descriptors, and what starts more plugins than that at once gains little by them.
pub const PREPARED_LAUNCHERS_MAX: usize = 2;

/// What the configuration can say; what it leaves out it does not decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    pub memory_mib: Option<u64>,
    pub cpu_percent: Option<u64>,
    pub pids: Option<u64>,
    pub open_files: Option<u64>,
    pub file_size_mib: Option<u64>,
    pub disk_mib: Option<u64>,
    pub log_kib_per_second: Option<u64>,
    /// What becomes of one that uses more processor time than it may, where the kernel does not throttle it.
    pub cpu_over: Option<CpuOver>,
}

/// What becomes of a plugin that uses more processor time than it may, where the kernel does not throttle it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuOver {
    /// An event says so, and it goes on.
    #[default]
    Warn,
    /// It is ended, and started again as after a crash.
    Restart,
}

/// Something of which a plugin may have only so much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Memory,
    Cpu,
    Pids,
    OpenFiles,
    Disk,
    Logs,
}

/// As `details.limit` of an error and the reason of an event name it.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::OpenFiles => "open_files",
            Self::Disk => "disk",
            Self::Logs => "logs",
        })
    }
}

/// What holds where nobody says anything.
pub const BUILT_IN: Decided = Decided {
    memory_mib: 512,
    cpu_percent: 50,
    pids: 64,
    open_files: 1024,
    file_size_mib: 1024,
    disk_mib: 1024,
    log_kib_per_second: 256,
};

/// With less, reading a few lines would take as long as a plugin is waited for when it stops.
pub const LOG_KIB_PER_SECOND_MIN: u64 = 16;

/// A number for each limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Decided {
    pub memory_mib: u64,
    /// Of one processor; 200 is two.
    pub cpu_percent: u64,
    /// Processes and threads.
    pub pids: u64,
    pub open_files: u64,
    pub file_size_mib: u64,
    /// All files in its data folder.
    pub disk_mib: u64,
    /// What is read of its standard output and standard error, together.
    pub log_kib_per_second: u64,
}

/// Whose word a limit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// An operator, while the daemon runs; until it ends.
    Operator,
    /// The manifest asks for no more.
    Manifest,
    /// The configuration, for this plugin.
    Plugin,
    /// The configuration, for all plugins.
    Defaults,
    /// Nobody has said anything.
    BuiltIn,
}

/// One limit, with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limit {
    pub value: u64,
    pub by: By,
    /// What the manifest asked for, if that is more than it gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<u64>,
}

/// All of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    pub memory_mib: Limit,
    pub cpu_percent: Limit,
    pub pids: Limit,
    pub open_files: Limit,
    pub file_size_mib: Limit,
    pub disk_mib: Limit,
    pub log_kib_per_second: Limit,
    /// Of use only where the kernel does not throttle.
    pub cpu_over: CpuOver,
}

impl Limits {
    /// What a plugin gets whose manifest asks for `asked`, where the configuration says this of it and of all.
    pub fn decide(asked: &Resources, plugin: &Allowance, defaults: &Allowance) -> Self {
        let one = |asked: Option<u64>, plugin: Option<u64>, defaults: Option<u64>, built_in: u64| {
            let (value, by) = match (plugin, defaults) {
                (Some(value), _) => (value, By::Plugin),
                (None, Some(value)) => (value, By::Defaults),
                (None, None) => (built_in, By::BuiltIn),
            };
            match asked {
                Some(asked) if asked < value => Limit { value: asked, by: By::Manifest, asked: None },
                asked => Limit { value, by, asked: asked.filter(|asked| value < *asked) },
            }
        };
        Self {
            memory_mib: one(asked.memory_mib, plugin.memory_mib, defaults.memory_mib, BUILT_IN.memory_mib),
            cpu_percent: one(asked.cpu_percent, plugin.cpu_percent, defaults.cpu_percent, BUILT_IN.cpu_percent),
            pids: one(asked.pids, plugin.pids, defaults.pids, BUILT_IN.pids),
            open_files: one(asked.open_files, plugin.open_files, defaults.open_files, BUILT_IN.open_files),
            file_size_mib: one(
                asked.file_size_mib,
                plugin.file_size_mib,
                defaults.file_size_mib,
                BUILT_IN.file_size_mib,
            ),
            disk_mib: one(asked.disk_mib, plugin.disk_mib, defaults.disk_mib, BUILT_IN.disk_mib),
            log_kib_per_second: one(
                asked.log_kib_per_second,
                plugin.log_kib_per_second,
                defaults.log_kib_per_second,
                BUILT_IN.log_kib_per_second,
            ),
            cpu_over: plugin.cpu_over.or(defaults.cpu_over).unwrap_or_default(),
        }
    }

    /// The same with what an operator has said since the daemon started.
    #[must_use]
    pub fn changed(mut self, said: &Allowance) -> Self {
        for (limit, said) in [
            (&mut self.memory_mib, said.memory_mib),
            (&mut self.cpu_percent, said.cpu_percent),
            (&mut self.pids, said.pids),
            (&mut self.open_files, said.open_files),
            (&mut self.file_size_mib, said.file_size_mib),
            (&mut self.disk_mib, said.disk_mib),
            (&mut self.log_kib_per_second, said.log_kib_per_second),
        ] {
            if let Some(value) = said {
                *limit = Limit { value, by: By::Operator, asked: None };
            }
        }
        self.cpu_over = said.cpu_over.unwrap_or(self.cpu_over);
        self
    }

    /// The numbers alone.
    pub fn decided(&self) -> Decided {
        Decided {
            memory_mib: self.memory_mib.value,
            cpu_percent: self.cpu_percent.value,
            pids: self.pids.value,
            open_files: self.open_files.value,
            file_size_mib: self.file_size_mib.value,
            disk_mib: self.disk_mib.value,
            log_kib_per_second: self.log_kib_per_second.value,
        }
    }

    /// A sentence for each limit that is tighter than the manifest asks for.
    pub fn refusals(&self) -> Vec<String> {
        let named = [
            ("memory_mib", self.memory_mib),
            ("cpu_percent", self.cpu_percent),
            ("pids", self.pids),
            ("open_files", self.open_files),
            ("file_size_mib", self.file_size_mib),
            ("disk_mib", self.disk_mib),
            ("log_kib_per_second", self.log_kib_per_second),
        ];
        let sentence = |(name, limit): (&str, Limit)| {
            let asked = limit.asked?;
            Some(format!("limits.{name} asks for {asked} and gets {}; the configuration can allow more", limit.value))
        };
        named.into_iter().filter_map(sentence).collect()
    }
}

impl Allowance {
    /// What is said here, and then there.
    #[must_use]
    pub fn and(self, later: &Self) -> Self {
        Self {
            memory_mib: later.memory_mib.or(self.memory_mib),
            cpu_percent: later.cpu_percent.or(self.cpu_percent),
            pids: later.pids.or(self.pids),
            open_files: later.open_files.or(self.open_files),
            file_size_mib: later.file_size_mib.or(self.file_size_mib),
            disk_mib: later.disk_mib.or(self.disk_mib),
            log_kib_per_second: later.log_kib_per_second.or(self.log_kib_per_second),
            cpu_over: later.cpu_over.or(self.cpu_over),
        }
    }

    /// The smallest numbers with which anything runs at all, and the largest that can be meant, as in a manifest.
    const BOUNDS: [(&str, u64, u64); 7] = [
        ("memory_mib", 8, 1 << 24),
        ("cpu_percent", 1, 1 << 20),
        ("pids", 1, 1 << 22),
        ("open_files", 16, 1 << 20),
        ("file_size_mib", 1, 1 << 30),
        ("disk_mib", 1, 1 << 30),
        ("log_kib_per_second", LOG_KIB_PER_SECOND_MIN, 1 << 30),
    ];

    /// Sees that each number is one that can be meant; an error names the first that cannot.
    pub fn check(&self) -> Result<(), String> {
        let given = [
            self.memory_mib,
            self.cpu_percent,
            self.pids,
            self.open_files,
            self.file_size_mib,
            self.disk_mib,
            self.log_kib_per_second,
        ];
        for ((name, least, most), given) in Self::BOUNDS.into_iter().zip(given) {
            if let Some(given) = given
                && !(least..=most).contains(&given)
            {
                return Err(format!("limits.{name} is {given}; it has to be from {least} to {most}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Allowance = Allowance {
        memory_mib: None,
        cpu_percent: None,
        pids: None,
        open_files: None,
        file_size_mib: None,
        disk_mib: None,
        log_kib_per_second: None,
        cpu_over: None,
    };

    #[test]
    fn the_operator_decides_and_a_manifest_can_only_ask_for_less() {
        // What the manifest asks for, the configuration for this plugin and for all; what follows.
        for (asked, plugin, defaults, value, by, vain) in [
            (None, None, None, 512, By::BuiltIn, None),
            (Some(100), None, None, 100, By::Manifest, None),
            (Some(512), None, None, 512, By::BuiltIn, None),
            (Some(1000), None, None, 512, By::BuiltIn, Some(1000)),
            (None, None, Some(256), 256, By::Defaults, None),
            (Some(300), None, Some(256), 256, By::Defaults, Some(300)),
            (Some(200), None, Some(256), 200, By::Manifest, None),
            (None, Some(2048), Some(256), 2048, By::Plugin, None),
            (Some(1000), Some(2048), Some(256), 1000, By::Manifest, None),
            (Some(4096), Some(2048), Some(256), 2048, By::Plugin, Some(4096)),
        ] {
            let limits = Limits::decide(
                &Resources { memory_mib: asked, ..Resources::default() },
                &Allowance { memory_mib: plugin, ..NOTHING },
                &Allowance { memory_mib: defaults, ..NOTHING },
            );
            assert_eq!(limits.memory_mib, Limit { value, by, asked: vain }, "{asked:?} {plugin:?} {defaults:?}");
            let refusals: Vec<_> = vain.map(|_| "limits.memory_mib".to_owned()).into_iter().collect();
            let said = limits.refusals();
            assert!(said.len() == refusals.len() && said.iter().zip(&refusals).all(|(s, r)| s.starts_with(r.as_str())));
        }
    }

    #[test]
    fn each_limit_is_decided_by_its_own_numbers() {
        let asked = Resources {
            memory_mib: Some(1 << 20),
            cpu_percent: Some(20),
            pids: None,
            open_files: Some(64),
            file_size_mib: None,
            disk_mib: None,
            log_kib_per_second: Some(40),
        };
        let plugin = Allowance { pids: Some(7), ..NOTHING };
        let defaults = Allowance { memory_mib: Some(32), file_size_mib: Some(9), ..NOTHING };
        let limits = Limits::decide(&asked, &plugin, &defaults);
        let expected = Decided {
            memory_mib: 32,
            cpu_percent: 20,
            pids: 7,
            open_files: 64,
            file_size_mib: 9,
            disk_mib: 1024,
            log_kib_per_second: 40,
        };
        assert_eq!(limits.decided(), expected);
        assert_eq!(Limits::decide(&Resources::default(), &NOTHING, &NOTHING).decided(), BUILT_IN);
    }

    #[test]
    fn what_an_operator_says_goes_before_everything_and_touches_nothing_else() {
        let asked = Resources { memory_mib: Some(64), ..Resources::default() };
        let limits = Limits::decide(&asked, &Allowance { pids: Some(7), ..NOTHING }, &NOTHING);
        let said = Allowance { memory_mib: Some(96), cpu_over: Some(CpuOver::Restart), ..NOTHING };
        let changed = limits.changed(&said);
        assert_eq!(changed.memory_mib, Limit { value: 96, by: By::Operator, asked: None });
        assert_eq!(changed.cpu_over, CpuOver::Restart);
        let back = Limits { memory_mib: limits.memory_mib, cpu_over: CpuOver::Warn, ..changed };
        assert_eq!(back, limits);
    }

    #[test]
    fn a_number_that_cannot_be_meant_is_named() {
        assert_eq!(NOTHING.check(), Ok(()));
        assert_eq!(Allowance { memory_mib: Some(8), ..NOTHING }.check(), Ok(()));
        let error = Allowance { pids: Some(0), ..NOTHING }.check().unwrap_err();
        assert!(error.starts_with("limits.pids is 0"), "{error}");
    }
}
