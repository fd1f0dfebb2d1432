//! `file_read` and `file_write`: a folder or file of the host, as a manifest asks for it and an operator grants it.
//!
//! A path has one form: absolute, without `.`, `..`, doubled or trailing slashes; so what lies beneath what is a matter of its text.
//!
//! Invariant: `/`, `/proc`, `/sys` and `/dev`, and what lies in the last three, are no such paths; neither are the places that every
//! plugin has for itself. Elsewhere: that no link stands in it and nothing of the daemon's lies there is seen when a plugin starts.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

/// More than any honest plugin needs of one kind; each is a mount and a rule.
pub const PATHS_MAX: usize = 32;

/// As long as Linux allows a path to be.
const BYTES_MAX: usize = 4095;

/// Not files of the host but the kernel's words, or devices.
const KERNELS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// What stands there in a plugin's root is its own, or made up for it.
const OWN: [&str; 5] = ["/plugin", "/data", "/tmp", "/etc", "/host"];

/// A folder or file of the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPath(String);

/// Why a text is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error(
        "{0:?} is no absolute path in its plain form, such as /srv/data: without `.`, `..` and doubled slashes, and without one at its end"
    )]
    Form(String),
    #[error("the path has {0} bytes; at most {BYTES_MAX} are possible")]
    TooLong(usize),
    #[error("/ is everything; name what is meant")]
    Root,
    #[error("{0} cannot be permitted: it is the kernel's; `system_access` names what there is of it")]
    Kernel(String),
    #[error("{0} cannot be permitted: every plugin has a {0} of its own; name what is meant in it")]
    Own(String),
    #[error("{0} cannot be permitted: a plugin has something else there")]
    InOwn(String),
}

impl HostPath {
    /// Reads a path.
    ///
    /// # Errors
    /// [`PathError`]
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text == "/" {
            return Err(PathError::Root);
        }
        if BYTES_MAX < text.len() {
            return Err(PathError::TooLong(text.len()));
        }
        let plain = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
        let parts = text.strip_prefix('/').ok_or_else(|| PathError::Form(text.to_owned()))?;
        if !parts.split('/').all(plain) || text.chars().any(char::is_control) {
            return Err(PathError::Form(text.to_owned()));
        }
        let path = Self(text.to_owned());
        let within = |place: &str| beneath(text, place);
        if KERNELS.into_iter().any(within) {
            return Err(PathError::Kernel(path.0));
        }
        if OWN.contains(&text) {
            return Err(PathError::Own(path.0));
        }
        if ["/plugin", "/data", "/host"].into_iter().any(within) {
            return Err(PathError::InOwn(path.0));
        }
        Ok(path)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// Whether this is `folder`, or lies in it.
    pub fn is_within(&self, folder: &Self) -> bool {
        beneath(&self.0, &folder.0)
    }
}

fn beneath(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl TryFrom<String> for HostPath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        Self::parse(&text)
    }
}

impl fmt::Display for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_form() {
        assert_eq!(HostPath::parse("/srv/data").unwrap().as_str(), "/srv/data");
        for text in ["srv", "", "/srv/", "//srv", "/srv/./x", "/srv/../etc", "/srv//x", "/srv\n"] {
            assert_eq!(HostPath::parse(text), Err(PathError::Form(text.to_owned())), "{text}");
        }
        let long = format!("/{}", "x/".repeat(2100));
        assert_eq!(HostPath::parse(&long), Err(PathError::TooLong(4201)));
    }

    #[test]
    fn what_is_the_kernels_or_a_plugins_own_is_no_path() {
        assert_eq!(HostPath::parse("/"), Err(PathError::Root));
        for text in ["/proc", "/proc/1/root", "/sys/fs/cgroup", "/dev", "/dev/shm"] {
            assert_eq!(HostPath::parse(text), Err(PathError::Kernel(text.to_owned())));
        }
        for text in ["/etc", "/tmp", "/data"] {
            assert_eq!(HostPath::parse(text), Err(PathError::Own(text.to_owned())));
        }
        for text in ["/data/x", "/plugin/x", "/host/proc"] {
            assert_eq!(HostPath::parse(text), Err(PathError::InOwn(text.to_owned())));
        }
        for text in ["/process", "/etc/motd", "/tmp/x", "/database", "/var/dev"] {
            assert!(HostPath::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn within_goes_by_whole_names() {
        let path = |text| HostPath::parse(text).unwrap();
        assert!(path("/srv/data").is_within(&path("/srv/data")));
        assert!(path("/srv/data/x").is_within(&path("/srv/data")));
        assert!(!path("/srv/database").is_within(&path("/srv/data")));
        assert!(!path("/srv").is_within(&path("/srv/data")));
    }
}
