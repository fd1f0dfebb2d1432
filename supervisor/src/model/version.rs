//! Versions of plugins: SemVer 2.0, nothing else.
//!
//! Authors who come from Python bring its forms along. Those are refused by name, because a version that is silently read
//! as something else decides which code runs.
//!
//! Elsewhere: choosing among versions is `specifier`.

use semver::Version;

/// SemVer sets no limit; a version is a folder's name and a column of a table here.
pub const VERSION_BYTES_MAX: usize = 128;

/// Why a text is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    #[error("a version is missing")]
    Empty,
    #[error("the version has {bytes} bytes; at most {VERSION_BYTES_MAX} are allowed")]
    TooLong { bytes: usize },
    #[error("`{text}` {form}, which SemVer does not have; {hint}")]
    Foreign { text: String, form: &'static str, hint: &'static str },
    #[error(
        "`{text}` names build metadata or a local version, which takes no part in comparisons; leave out what follows the \
         plus sign"
    )]
    Build { text: String },
    #[error("`{text}` is not a SemVer version (MAJOR.MINOR.PATCH, as in 1.4.0): {why}")]
    Malformed { text: String, why: String },
}

/// Reads a complete version: three numbers, and perhaps a pre-release and build metadata.
pub fn parse(text: &str) -> Result<Version, VersionError> {
    check_length(text)?;
    Version::parse(text).map_err(|error| {
        foreign_form(text).unwrap_or_else(|| VersionError::Malformed {
            text: text.escape_debug().to_string(),
            why: error.to_string(),
        })
    })
}

pub(super) fn check_length(text: &str) -> Result<(), VersionError> {
    if text.is_empty() {
        return Err(VersionError::Empty);
    }
    if VERSION_BYTES_MAX < text.len() {
        return Err(VersionError::TooLong { bytes: text.len() });
    }
    Ok(())
}

/// The forms other ecosystems have and SemVer lacks, looked for only in what precedes the first hyphen: behind it stands
/// a pre-release, whose identifiers may be called `dev` or `post` as they like.
pub(super) fn foreign_form(text: &str) -> Option<VersionError> {
    let (form, hint) = {
        let release = text.split('-').next().unwrap_or(text);
        let number = release.strip_prefix(['v', 'V']).unwrap_or(release);
        // A local version is looked at after the rest, and only where it does not follow a complete SemVer number.
        let (number, local) = number.split_once('+').map_or((number, None), |(before, after)| (before, Some(after)));
        let letters = number.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '*'));
        let word = letters.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '_'));
        if number.contains('!') {
            ("has an epoch", "leave out what stands before the exclamation mark and raise the major number instead")
        } else if word.eq_ignore_ascii_case("post") || word.eq_ignore_ascii_case("rev") {
            ("is a post-release", "raise the patch number instead")
        } else if word.eq_ignore_ascii_case("dev") {
            ("is a development release", "write a pre-release, as in 1.4.0-dev.1")
        } else if ["a", "b", "c", "rc", "alpha", "beta", "pre", "preview"]
            .iter()
            .any(|known| word.eq_ignore_ascii_case(known))
        {
            ("joins its pre-release without a hyphen", "write it as in 1.4.0-rc.1")
        } else if local.is_some() {
            ("is a local version", "leave out what follows the plus sign")
        } else if number.len() < release.len() {
            ("begins with a letter", "leave out the leading `v`")
        } else {
            return None;
        }
    };
    Some(VersionError::Foreign { text: text.escape_debug().to_string(), form, hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semver_is_taken() {
        for text in ["0.0.0", "1.2.3", "1.0.0-rc.1", "1.0.0-post.1", "1.0.0-dev1", "1.0.0+build.5", "10.20.30-a-b"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn foreign_forms_are_refused_by_name() {
        for (text, word) in [
            ("1!2.0.0", "epoch"),
            ("1.0.post1", "post-release"),
            ("1.0.0.post1", "post-release"),
            ("1.0.0post1", "post-release"),
            ("1.0.dev3", "development release"),
            ("1.0.0.dev3", "development release"),
            ("1.0rc1", "without a hyphen"),
            ("1.0.0b2", "without a hyphen"),
            ("1.0+ubuntu", "local version"),
            ("v1.0.0", "leading `v`"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(word), "{text}: {message}");
        }
    }

    #[test]
    fn what_is_merely_wrong_is_told_the_form() {
        for text in ["1", "1.2", "1.2.3.4", "01.2.3", "x", "1.2.3-", "../x", "99999999999999999999.0.0"] {
            assert!(matches!(parse(text), Err(VersionError::Malformed { .. })), "{text}: {:?}", parse(text));
        }
        assert_eq!(parse(""), Err(VersionError::Empty));
        assert_eq!(parse(&"1".repeat(129)), Err(VersionError::TooLong { bytes: 129 }));
    }
}
