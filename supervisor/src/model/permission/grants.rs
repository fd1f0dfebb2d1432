//! What the operator decided that a plugin may do beyond the default, which is nothing.
//!
//! A permission is offered only where something enforces it; a grant of any other is a mistake that is named.

use std::fmt;

/// The grants of one plugin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Grants {
    /// It may execute programs, whenever it wants.
    pub execute_code: bool,
}

/// A grant of something that is not offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownGrant(String);

impl fmt::Display for UnknownGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no permission {:?} to grant; there is \"execute_code\"", self.0)
    }
}

impl std::error::Error for UnknownGrant {}

impl Grants {
    /// Reads the names of permissions.
    ///
    /// # Errors
    /// [`UnknownGrant`] for the first that is not offered.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownGrant> {
        let mut grants = Self::default();
        for name in names {
            match name {
                "execute_code" => grants.execute_code = true,
                other => return Err(UnknownGrant(other.to_owned())),
            }
        }
        Ok(grants)
    }

    /// Their names.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        self.execute_code.then(|| "execute_code".to_owned()).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_is_granted_and_nothing_else() {
        assert_eq!(Grants::parse([]), Ok(Grants::default()));
        let granted = Grants::parse(["execute_code"]).unwrap();
        assert_eq!((granted, granted.names()), (Grants { execute_code: true }, vec!["execute_code".to_owned()]));
        let error = Grants::parse(["execute_code", "rule_the_world"]).unwrap_err().to_string();
        assert_eq!(error, "there is no permission \"rule_the_world\" to grant; there is \"execute_code\"");
    }
}
