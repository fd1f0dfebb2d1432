//! `[runtimes.NAME]`: an interpreter of the operator's, and what of the host belongs to it, for plugins that name it.
//!
//! Elsewhere: whether it is there is seen by `sandbox::runtime`; a manifest names it in `runtime`.

use serde::Deserialize;

use super::permission::path::{HostPath, PATHS_MAX};

/// Where programs lie beside `/usr`; every plugin sees them.
pub const BESIDE_USR: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Longest name, as in a manifest.
const NAME_BYTES_MAX: usize = 64;

/// One of them, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// The program that executes the plugin's entry point.
    pub exec: HostPath,
    /// What else of the host a plugin sees with it: readable and executable, never writable.
    #[serde(default)]
    pub binds: Vec<HostPath>,
}

impl Runtime {
    /// Whether that can be meant.
    ///
    /// # Errors
    /// A sentence without its beginning: what is wrong with the runtime of that name.
    pub fn check(&self, name: &str) -> Result<(), String> {
        if name.is_empty() || NAME_BYTES_MAX < name.len() || name.chars().any(char::is_control) {
            return Err(format!("its name has to be one line of at most {NAME_BYTES_MAX} bytes"));
        }
        if PATHS_MAX < self.binds.len() {
            return Err(format!("it has {} binds; at most {PATHS_MAX} are possible", self.binds.len()));
        }
        let everybodys = |path: &str| {
            let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
            first == "usr" || BESIDE_USR.contains(&first)
        };
        let seen = self.binds.iter().any(|bind| self.exec.is_within(bind)) || everybodys(self.exec.as_str());
        if !seen {
            return Err(format!("no plugin sees {}: it lies in none of `binds`, and not in /usr", self.exec));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(exec: &str, binds: &[&str]) -> Runtime {
        let path = |text: &str| HostPath::parse(text).unwrap();
        Runtime { exec: path(exec), binds: binds.iter().map(|bind| path(bind)).collect() }
    }

    #[test]
    fn the_program_is_one_that_plugins_see() {
        for (exec, binds) in [
            ("/usr/bin/python3.13", &[][..]),
            ("/bin/sh", &[]),
            ("/opt/python/bin/python3", &["/srv", "/opt/python"]),
            ("/opt/tool", &["/opt/tool"]),
        ] {
            assert_eq!(runtime(exec, binds).check("x"), Ok(()), "{exec}");
        }
        for (exec, binds) in [("/opt/python/bin/python3", &["/opt/py"][..]), ("/usrlocal/x", &[]), ("/opt/x", &[])] {
            let error = runtime(exec, binds).check("x").unwrap_err();
            assert_eq!(error, format!("no plugin sees {exec}: it lies in none of `binds`, and not in /usr"));
        }
    }

    #[test]
    fn names_and_binds_are_bounded() {
        let one = runtime("/usr/bin/x", &[]);
        for name in ["", "a\nb", &"x".repeat(65)] {
            assert!(one.check(name).unwrap_err().contains("at most 64 bytes"), "{name:?}");
        }
        let many = Runtime { binds: vec![one.exec.clone(); PATHS_MAX + 1], ..one };
        assert_eq!(many.check("x"), Err("it has 33 binds; at most 32 are possible".to_owned()));
    }
}
