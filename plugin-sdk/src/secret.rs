//! What an operator has set for a plugin, and nobody else is to see.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// The host call by which a secret is asked for.
pub(crate) const GET: &str = "secret.get";

/// A secret. It is wiped from memory when it is dropped, and nothing shows it: neither `Debug` nor an error.
///
/// Ask for it when it is needed rather than keeping it: it is given anew each time, and what an operator sets meanwhile holds at once.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// What it is. Copies of this are not wiped.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The answer of the supervisor.
#[derive(Deserialize)]
pub(crate) struct Answered {
    pub(crate) value: Secret,
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret(Zeroizing::new(text.to_owned())))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Secret, E> {
                Ok(Secret(Zeroizing::new(text)))
            }
        }

        deserializer.deserialize_str(Text)
    }
}
