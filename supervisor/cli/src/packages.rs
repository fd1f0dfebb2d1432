//! `install`, `uninstall` and `rescan`.

use std::path::Path;

use palisade_client::admin::{Installation, Removal, Rescan};
use palisade_protocol::ErrorCode;
use serde::Serialize;

use crate::Context;
use crate::failure::Failure;
use crate::permissions;
use crate::plugins::{Target, show, target};
use crate::screen::{Screen, Tone, harmless, one_line};

#[derive(Serialize)]
struct Install<'a> {
    path: &'a Path,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    force: bool,
}

/// `palisade install FOLDER|ARCHIVE|URL`
pub(crate) async fn install(context: &Context, source: &Path, force: bool, yes: bool) -> Result<(), Failure> {
    // The daemon's folder is another one.
    let path = if is_url(source) { Ok(source.to_owned()) } else { std::path::absolute(source) };
    let path =
        path.map_err(|error| Failure::code(ErrorCode::InvalidParams, format!("{}: {error}", source.display())))?;
    let answer = context.operate("install", &Install { path: &path, force }).await?;
    let installed: Installation = answer.decode()?;
    show(context, &answer, |_, screen| Ok(installation_text(&installed, screen)))?;
    permissions::after_install(context, &installed, yes).await
}

/// Which of them it can use is the daemon's to say.
fn is_url(source: &Path) -> bool {
    source.to_str().is_some_and(|text| text.contains("://") || text.starts_with("file:"))
}

fn installation_text(installed: &Installation, screen: &Screen) -> String {
    let Installation { id, version, digest, was_there } = installed;
    let what = screen.tone(&format!("{} {}", one_line(id), one_line(version)), Tone::Strong);
    let how = if *was_there { "was installed already" } else { "is installed" };
    format!("{what} {how}, sha256 {}\n", one_line(digest))
}

/// `palisade uninstall PLUGIN…`, one after the other.
pub(crate) async fn uninstall(context: &Context, plugins: &[String], force: bool) -> Result<(), Failure> {
    for plugin in plugins {
        let answer = context.operate("uninstall", &Target { force, ..target(plugin) }).await;
        let answer = answer.map_err(|failure| if plugins.len() > 1 { failure.about(plugin) } else { failure })?;
        show(context, &answer, |answer, screen| Ok(removal_text(&answer.decode()?, screen)))?;
    }
    Ok(())
}

fn removal_text(removed: &Removal, screen: &Screen) -> String {
    let what = screen.tone(&format!("{} {}", one_line(&removed.id), one_line(&removed.version)), Tone::Strong);
    let mut text = format!("{what} is removed\n");
    for broken in &removed.broken {
        text += &screen.tone(&format!("{} is without it now\n", one_line(broken)), Tone::Careful);
    }
    if let Some(data) = &removed.data {
        text += &format!("its data stay in {}\n", harmless(data));
    }
    text
}

/// `palisade rescan`
pub(crate) async fn rescan(context: &Context) -> Result<(), Failure> {
    let answer = context.operate("rescan", &serde_json::json!({})).await?;
    show(context, &answer, |answer, screen| Ok(rescan_text(&answer.decode()?, screen)))
}

fn rescan_text(found: &Rescan, screen: &Screen) -> String {
    let mut text = String::new();
    for (plugins, how) in [(&found.added, "is new"), (&found.changed, "has changed"), (&found.removed, "is gone")] {
        for plugin in plugins {
            text += &format!("{} {how}\n", screen.tone(&one_line(plugin), Tone::Strong));
        }
    }
    for rejected in &found.rejected {
        let told = format!("{} is not used: {}\n", harmless(&rejected.path), harmless(&rejected.reason));
        text += &screen.tone(&told, Tone::Careful);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_client::admin::Rejected;

    #[test]
    fn urls_are_no_paths() {
        for url in ["file:///a", "file:/a", "https://example.com/a.tar.zst"] {
            assert!(is_url(Path::new(url)), "{url}");
        }
        for path in ["a", "/a", "a/file:", "C:a"] {
            assert!(!is_url(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn what_was_done_and_what_stays_is_said() {
        let installed =
            Installation { id: "echo".into(), version: "1.0.0".into(), digest: "00ff".into(), was_there: false };
        assert_eq!(installation_text(&installed, &Screen::plain()), "echo 1.0.0 is installed, sha256 00ff\n");
        let again = Installation { was_there: true, ..installed };
        assert_eq!(installation_text(&again, &Screen::plain()), "echo 1.0.0 was installed already, sha256 00ff\n");
        let removed = Removal {
            id: "echo".into(),
            version: "1.0.0".into(),
            broken: vec!["other 2.0.0".into()],
            data: Some("/var/lib/\x1b".into()),
        };
        assert_eq!(
            removal_text(&removed, &Screen::plain()),
            "echo 1.0.0 is removed\nother 2.0.0 is without it now\nits data stay in /var/lib/\\u{1b}\n"
        );
        let found = Rescan {
            added: vec!["a 1.0.0".into()],
            changed: vec!["b 1.0.0".into()],
            removed: vec!["c 1.0.0".into()],
            rejected: vec![Rejected { path: "/p/d".into(), reason: "it is\x1b odd".into() }],
        };
        let told = "a 1.0.0 is new\nb 1.0.0 has changed\nc 1.0.0 is gone\n/p/d is not used: it is\\u{1b} odd\n";
        assert_eq!(rescan_text(&found, &Screen::plain()), told);
        assert_eq!(rescan_text(&Rescan::default(), &Screen::plain()), "");
    }
}
