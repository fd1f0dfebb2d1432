//! From where a package is installed: a folder, or an archive of one, by its path or as a `file:` URL.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use palisade_protocol::{ErrorBody, ErrorCode};
use rustix::fs::{Mode, OFlags};

/// What lies there.
pub(super) enum Source {
    Folder,
    /// Opened, at its beginning.
    Archive(File),
}

/// The path that is meant.
///
/// # Errors
/// `invalid_params` for one that is not absolute, and for a URL that is no file of this host.
pub(super) fn path_of(given: &str) -> Result<PathBuf, ErrorBody> {
    if given.starts_with('/') {
        return Ok(PathBuf::from(given));
    }
    let refused = |why: String| Err(ErrorBody::new(ErrorCode::InvalidParams, why));
    let Some((scheme, rest)) = given.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else {
        return refused(format!("{given} is no absolute path, and the daemon's folder is another"));
    };
    if !scheme.eq_ignore_ascii_case("file") {
        return refused(format!(
            "{given} is a URL of the scheme {scheme}, and packages are installed from `file:` alone; fetch it first"
        ));
    }
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(rest) => {
            let (host, _) = rest.split_once('/').unwrap_or((rest, ""));
            if !host.is_empty() && !host.eq_ignore_ascii_case("localhost") {
                return refused(format!("{given} names the host {host:?}, and only files of this host are installed"));
            }
            &rest[host.len()..]
        }
    };
    if !path.starts_with('/') {
        return refused(format!("{given} has no absolute path"));
    }
    if path.contains(['?', '#']) {
        return refused(format!("{given} has a query or a fragment; in a path write %3F and %23"));
    }
    match decoded(path) {
        Some(path) => Ok(PathBuf::from(OsString::from_vec(path))),
        None => refused(format!("{given} has something after a % that is no character of a file's name")),
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '-' | '.'))
}

/// The path with what stands after each `%`; not with what would divide it or end it.
fn decoded(path: &str) -> Option<Vec<u8>> {
    let mut bytes = path.bytes();
    let mut decoded = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
        let value = u8::try_from(value).ok().filter(|value| !matches!(value, 0 | b'/'))?;
        decoded.push(value);
    }
    Some(decoded)
}

/// Where that is, without links and `..`: what is required of a package, and what it is granted, depends on the folder that it lies in.
///
/// # Errors
/// `invalid_params` where there is nothing.
pub(super) fn resolved(path: &Path) -> Result<PathBuf, ErrorBody> {
    path.canonicalize().map_err(|error| {
        ErrorBody::new(ErrorCode::InvalidParams, format!("{} cannot be read: {error}", path.display()))
    })
}

/// Looks what lies there. A link is followed: where it leads is the operator's word. A pipe is not waited for.
///
/// # Errors
/// `invalid_params` where there is nothing that could be read, or something else.
pub(super) fn open(path: &Path) -> Result<Source, ErrorBody> {
    let refused = |why: String| ErrorBody::new(ErrorCode::InvalidParams, format!("{} {why}", path.display()));
    let unreadable = |error: io::Error| refused(format!("cannot be read: {error}"));
    let neither = || refused("is neither a folder nor an archive".to_owned());
    // To open a device may do something, so it is looked at before.
    let what = std::fs::metadata(path).map_err(unreadable)?;
    if what.is_dir() {
        return Ok(Source::Folder);
    }
    if !what.is_file() {
        return Err(neither());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| unreadable(error.into()))?;
    let file = File::from(file);
    // It may be something else by now.
    if file.metadata().map_err(unreadable)?.is_file() { Ok(Source::Archive(file)) } else { Err(neither()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls_of_files_are_understood() {
        for (given, path) in [
            ("/a/b", "/a/b"),
            ("/a:b", "/a:b"),
            ("/a%20b", "/a%20b"),
            ("file:///a/b%20c", "/a/b c"),
            ("file://localhost/a", "/a"),
            ("FILE://LocalHost/a", "/a"),
            ("file:/a", "/a"),
            ("file:///a/%C3%A9%3f%23", "/a/\u{e9}?#"),
        ] {
            assert_eq!(path_of(given), Ok(PathBuf::from(path)), "{given}");
        }
        for (given, words) in [
            ("", "is no absolute path"),
            ("a", "a is no absolute path, and the daemon's folder is another"),
            ("a/b:c", "is no absolute path"),
            ("file:a", "file:a has no absolute path"),
            ("file://", "has no absolute path"),
            ("file://elsewhere/a", "names the host \"elsewhere\""),
            ("file://127.0.0.1/a", "names the host \"127.0.0.1\""),
            ("https://example.com/a.tar.zst", "is a URL of the scheme https"),
            ("file:///a?b", "has a query or a fragment"),
            ("file:///a#b", "has a query or a fragment"),
            ("file:///a%2", "something after a %"),
            ("file:///a%zz", "something after a %"),
            ("file:///a%00", "something after a %"),
            ("file:///a%2Fb", "something after a %"),
        ] {
            let error = path_of(given).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidParams);
            assert!(error.message.contains(words), "{}", error.message);
        }
    }

    #[test]
    fn what_is_neither_a_folder_nor_a_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(open(folder.path()), Ok(Source::Folder)));
        let pipe = folder.path().join("pipe");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, Mode::RWXU, 0).unwrap();
        for (path, words) in [
            (pipe.as_path(), "is neither a folder nor an archive"),
            (Path::new("/dev/zero"), "is neither a folder nor an archive"),
            (&folder.path().join("nowhere"), "cannot be read: No such file or directory"),
        ] {
            let Err(error) = open(path) else { panic!("{}", path.display()) };
            assert_eq!(error.code, ErrorCode::InvalidParams);
            assert!(error.message.contains(words), "{}", error.message);
        }
        let link = folder.path().join("link");
        std::fs::write(folder.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert!(matches!(open(&link), Ok(Source::Archive(_))));
    }
}
