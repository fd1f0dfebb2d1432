//! `install`, `update`, `uninstall` and `rescan`.

use std::path::{Path, PathBuf};

use palisade_client::Raw;
use palisade_client::admin::{
    Available, AvailableUpdates, Installation, PluginStatus, Removal, Rescan, Update as Updated, Updates,
};
use palisade_protocol::ErrorCode;
use serde::Serialize;

use crate::Context;
use crate::failure::Failure;
use crate::permissions;
use crate::plugins::{Target, show, target};
use crate::screen::{Cell, Label, Screen, Tone, harmless, one_line};

#[derive(Serialize)]
struct Uninstall<'a> {
    #[serde(flatten)]
    target: Target<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    purge: bool,
}

#[derive(Serialize)]
struct Install<'a> {
    path: &'a Path,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    major: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    force: bool,
}

#[derive(Serialize)]
struct Update<'a> {
    #[serde(flatten)]
    target: Option<Target<'a>>,
    #[serde(rename = "to_version", skip_serializing_if = "Option::is_none")]
    to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a Path>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    major: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    force: bool,
}

/// `palisade install FOLDER|ARCHIVE|URL`
pub(crate) async fn install(context: &Context, source: &Path, load: bool, leave: Leave) -> Result<(), Failure> {
    let path = absolute(source)?;
    let wanted = |major| Install { path: &path, major, force: leave.force };
    let answer = confirmed(context, "install", leave.major, wanted).await?;
    let installed: Installation = answer.decode()?;
    show(context, &answer, |_, screen| Ok(installation_text(&installed, screen)))?;
    permissions::after_install(context, &installed.id, &installed.version, leave.yes).await?;
    if load { start(context, &installed).await } else { Ok(()) }
}

/// Asks for something, and where that is a new major version which nobody has confirmed, whether it is to be done all the same.
async fn confirmed<T: Serialize>(
    context: &Context,
    operation: &str,
    major: bool,
    wanted: impl Fn(bool) -> T,
) -> Result<Raw, Failure> {
    match context.operate(operation, &wanted(major)).await {
        Err(failure) if failure.is(ErrorCode::ConsentRequired) && !major && permissions::can_ask(context) => {
            let question = format!("{} Install it? [y/N] ", harmless(&failure.sentence()));
            if !permissions::is_confirmed(&question) {
                return Err(failure);
            }
            context.operate(operation, &wanted(true)).await
        }
        answer => answer,
    }
}

/// As the daemon finds it, whose folder is another one.
fn absolute(source: &Path) -> Result<PathBuf, Failure> {
    let path = if is_url(source) { Ok(source.to_owned()) } else { std::path::absolute(source) };
    path.map_err(|error| Failure::code(ErrorCode::InvalidParams, format!("{}: {error}", source.display())))
}

/// What an update may do without being asked.
#[derive(Clone, Copy)]
pub(crate) struct Leave {
    pub(crate) major: bool,
    pub(crate) force: bool,
    pub(crate) yes: bool,
}

/// `palisade update [PLUGIN]`
pub(crate) async fn update(
    context: &Context,
    plugin: Option<&str>,
    to: Option<&str>,
    from: Option<&Path>,
    leave: Leave,
) -> Result<(), Failure> {
    let path = from.map(absolute).transpose()?;
    let wanted = |major| Update { target: plugin.map(target), to, path: path.as_deref(), major, force: leave.force };
    let answer = confirmed(context, "update", leave.major, wanted).await?;
    let all: Updates = answer.decode()?;
    show(context, &answer, |_, screen| {
        Ok(all.updates.iter().map(|one| update_text(one, to.is_some(), screen)).collect())
    })?;
    for Updated { id, version, .. } in all.updates.iter().filter(|one| one.updated) {
        permissions::after_install(context, id, version, leave.yes).await?;
    }
    for failed in &all.failed {
        let text = format!("{}: {}", one_line(&failed.id), harmless(&failed.message));
        let _ = context.screen.error_line(&context.screen.labelled(Label::Error, &text));
    }
    let code = all.failed.first().map(|failed| ErrorCode::from_name(&failed.code).unwrap_or(ErrorCode::Internal));
    code.map_or(Ok(()), |code| Err(Failure::silent(code.exit_status())))
}

/// `palisade update --check [PLUGIN]`
pub(crate) async fn check(context: &Context, plugin: Option<&str>) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Check<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        plugin: Option<&'a str>,
        check: bool,
    }
    let answer = context.operate("update", &Check { plugin, check: true }).await?;
    show(context, &answer, |answer, screen| Ok(available_text(&answer.decode::<AvailableUpdates>()?.available, screen)))
}

fn available_text(available: &[Available], screen: &Screen) -> String {
    if available.is_empty() {
        return "there is no newer version of any plugin\n".to_owned();
    }
    let text = |text: &Option<String>| text.as_deref().unwrap_or("-").to_owned();
    let rows: Vec<Vec<Cell>> = available
        .iter()
        .map(|one| {
            let policy = match &one.pin {
                Some(pin) => {
                    let beyond = one.excluded.as_ref().map(|beyond| format!(", which excludes {beyond}"));
                    format!("{}, pinned to {pin}{}", one.policy, beyond.unwrap_or_default())
                }
                None => one.policy.clone(),
            };
            let held = match (&one.held_by, &one.reason) {
                (Some(by), Some(reason)) => format!("{by}: {reason}"),
                (by, _) => text(by),
            };
            vec![
                Cell::new(&one.id, Tone::Strong),
                text(&one.serving).into(),
                text(&one.newest).into(),
                text(&one.kind).into(),
                policy.into(),
                Cell::new(held, Tone::Careful),
            ]
        })
        .collect();
    screen.fitting_table(&["PLUGIN", "SERVING", "NEWEST", "KIND", "POLICY", "HELD BACK BY"], &rows)
}

/// `is_named` where just that version was wanted.
fn update_text(updated: &Updated, is_named: bool, screen: &Screen) -> String {
    let Updated { id, from, version, source, found, updated, installed, awaits_consent, kept, .. } = updated;
    let what = screen.tone(&format!("{} {}", one_line(id), one_line(version)), Tone::Strong);
    let kept = kept.as_deref().map(kept_text).unwrap_or_default();
    match updated {
        true if *installed => format!("{what} is installed, after {}\n{kept}", one_line(from)),
        true if *awaits_consent => {
            format!("{what} is accepted, after {}, and waits for your consent\n{kept}", one_line(from))
        }
        true => format!("{what} takes calls, after {}\n{kept}", one_line(from)),
        false if is_named => format!("{what} takes calls already\n"),
        false if found == version => format!("{what} is the newest that there is in {}\n", harmless(source)),
        false => format!("{what} stays: {}, in {}, is no newer\n", one_line(found), harmless(source)),
    }
}

/// Where what it kept is as the version before can use it.
fn kept_text(kept: &str) -> String {
    format!("what it kept before is kept in {}\n", one_line(kept))
}

/// Starts what was installed. Whatever becomes of that, it is installed.
async fn start(context: &Context, installed: &Installation) -> Result<(), Failure> {
    let Installation { id, version, .. } = installed;
    let only = format!("={version}");
    let target = Target { plugin: id, version: Some(&only), force: false };
    let answer = context.operate("start", &target).await.map_err(|failure| {
        let installed = format!("{id} {version} is installed all the same");
        failure.about(&format!("{id} {version} was not started")).with_hint_if_none(&installed)
    })?;
    show(context, &answer, |answer, _| {
        let status: PluginStatus = answer.decode()?;
        Ok(format!("it is {}\n", one_line(&status.state)))
    })
}

/// Which of them it can use is the daemon's to say.
fn is_url(source: &Path) -> bool {
    source.to_str().is_some_and(|text| text.contains("://") || text.starts_with("file:"))
}

fn installation_text(installed: &Installation, screen: &Screen) -> String {
    let Installation { id, version, digest, was_there, kept, .. } = installed;
    let kept = kept.as_deref().map(kept_text).unwrap_or_default();
    let what = screen.tone(&format!("{} {}", one_line(id), one_line(version)), Tone::Strong);
    let how = if *was_there { "was installed already" } else { "is installed" };
    format!("{what} {how}, sha256 {}\n{kept}", one_line(digest))
}

/// `palisade uninstall PLUGIN…`, one after the other. Each failure is told when it is known; the first decides the exit status.
pub(crate) async fn uninstall(context: &Context, plugins: &[String], force: bool, purge: bool) -> Result<(), Failure> {
    let mut first = None;
    for plugin in plugins {
        let target = Target { force, ..target(plugin) };
        match context.operate("uninstall", &Uninstall { target, purge }).await {
            Ok(answer) => show(context, &answer, |answer, screen| Ok(removal_text(&answer.decode()?, purge, screen)))?,
            Err(failure) if failure.is_the_end() => return Err(failure),
            Err(failure) => {
                let failure = if plugins.len() > 1 { failure.about(plugin) } else { failure };
                failure.print(&context.screen, context.json);
                first.get_or_insert(Failure::silent(failure.status));
            }
        }
    }
    first.map_or(Ok(()), Err)
}

fn removal_text(removed: &Removal, purge: bool, screen: &Screen) -> String {
    let mut text = match &removed.version {
        Some(version) => {
            let what = screen.tone(&format!("{} {}", one_line(&removed.id), one_line(version)), Tone::Strong);
            format!("{what} is removed\n")
        }
        None => format!("of {} no version was there\n", screen.tone(&one_line(&removed.id), Tone::Strong)),
    };
    for broken in &removed.broken {
        text += &screen.tone(&format!("{} is without it now\n", one_line(broken)), Tone::Careful);
    }
    if let Some(data) = &removed.data {
        let whose =
            if purge { "other versions of it are there, and its data are theirs: they stay" } else { "its data stay" };
        text += &format!("{whose} in {}\n", harmless(data));
    }
    for gone in &removed.gone {
        text += &format!("gone with it: {}\n", harmless(gone));
    }
    if removed.purged {
        text += "nothing of it stays\n";
    }
    if let Some(archive) = &removed.archive {
        text += &format!("to have it again: palisade install {}\n", harmless(archive));
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
    for kept in &found.kept {
        let told = format!("{} goes on as it was: {}\n", one_line(&kept.plugin), harmless(&kept.reason));
        text += &screen.tone(&told, Tone::Careful);
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
    use palisade_client::admin::{Kept, Rejected};

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
    fn what_an_update_came_to_is_said() {
        let same = Updated {
            id: "echo".into(),
            from: "1.1.0".into(),
            version: "1.1.0".into(),
            source: "/srv/echo".into(),
            found: "1.1.0".into(),
            ..Updated::default()
        };
        let text = |updated: &Updated| update_text(updated, false, &Screen::plain());
        assert_eq!(text(&same), "echo 1.1.0 is the newest that there is in /srv/echo\n");
        let older = Updated { found: "1.0.0".into(), ..same.clone() };
        assert_eq!(text(&older), "echo 1.1.0 stays: 1.0.0, in /srv/echo, is no newer\n");
        assert_eq!(update_text(&same, true, &Screen::plain()), "echo 1.1.0 takes calls already\n");
        let newer = Updated { version: "1.2.0".into(), updated: true, ..same };
        assert_eq!(text(&newer), "echo 1.2.0 takes calls, after 1.1.0\n", "it lay there");
        let waits = Updated { awaits_consent: true, ..newer.clone() };
        assert_eq!(text(&waits), "echo 1.2.0 is accepted, after 1.1.0, and waits for your consent\n");
        let installed = Updated { installed: true, kept: Some("/state\n/a".into()), ..newer };
        let told = "echo 1.2.0 is installed, after 1.1.0\nwhat it kept before is kept in /state\\n/a\n";
        assert_eq!(text(&installed), told);
    }

    #[test]
    fn which_newer_versions_there_are_is_a_table() {
        assert_eq!(available_text(&[], &Screen::plain()), "there is no newer version of any plugin\n");
        let text = |text: &str| Some(text.to_owned());
        let available = [
            Available {
                id: "weather".into(),
                serving: text("1.2.0"),
                newest: text("2.0.0"),
                kind: text("major"),
                policy: "auto".into(),
                held_by: text("major"),
                reason: text("it is a new major version after 1.2.0"),
                ..Available::default()
            },
            Available {
                id: "echo".into(),
                serving: text("1.0.0"),
                policy: "manual".into(),
                pin: text("~1.0"),
                ..Available::default()
            },
        ];
        insta::assert_snapshot!(available_text(&available, &Screen::plain()), @r"
        PLUGIN   SERVING  NEWEST  KIND   POLICY                  HELD BACK BY
        weather  1.2.0    2.0.0   major  auto                    major: it is a new major version after 1.2.0
        echo     1.0.0    -       -      manual, pinned to ~1.0  -
        ");
    }

    #[test]
    fn what_was_done_and_what_stays_is_said() {
        let installed = Installation {
            id: "echo".into(),
            version: "1.0.0".into(),
            digest: "00ff".into(),
            ..Installation::default()
        };
        assert_eq!(installation_text(&installed, &Screen::plain()), "echo 1.0.0 is installed, sha256 00ff\n");
        let again = Installation { was_there: true, ..installed };
        assert_eq!(installation_text(&again, &Screen::plain()), "echo 1.0.0 was installed already, sha256 00ff\n");
        let removed = Removal {
            id: "echo".into(),
            version: Some("1.0.0".into()),
            broken: vec!["other 2.0.0".into()],
            data: Some("/var/lib/\x1b".into()),
            archive: Some("/var/lib/echo.tar.zst".into()),
            purged: false,
            gone: vec![],
        };
        assert_eq!(
            removal_text(&removed, false, &Screen::plain()),
            "echo 1.0.0 is removed\nother 2.0.0 is without it now\nits data stay in /var/lib/\\u{1b}\n\
             to have it again: palisade install /var/lib/echo.tar.zst\n"
        );
        let shared = Removal { broken: vec![], archive: None, ..removed };
        assert_eq!(
            removal_text(&shared, true, &Screen::plain()),
            "echo 1.0.0 is removed\nother versions of it are there, and its data are theirs: they stay in /var/lib/\\u{1b}\n"
        );
        let purged = Removal { data: None, purged: true, ..shared };
        assert_eq!(removal_text(&purged, true, &Screen::plain()), "echo 1.0.0 is removed\nnothing of it stays\n");
        let rest = Removal { version: None, gone: vec!["the archives of 1.0.0".into()], ..purged };
        assert_eq!(
            removal_text(&rest, true, &Screen::plain()),
            "of echo no version was there\ngone with it: the archives of 1.0.0\nnothing of it stays\n"
        );
        let found = Rescan {
            added: vec!["a 1.0.0".into()],
            changed: vec!["b 1.0.0".into()],
            removed: vec!["c 1.0.0".into()],
            kept: vec![Kept { plugin: "e 1.0.0".into(), reason: "it crashed".into() }],
            rejected: vec![Rejected { path: "/p/d".into(), reason: "it is\x1b odd".into() }],
        };
        let told = "a 1.0.0 is new\nb 1.0.0 has changed\nc 1.0.0 is gone\ne 1.0.0 goes on as it was: it crashed\n/p/d is not used: it is\\u{1b} odd\n";
        assert_eq!(rescan_text(&found, &Screen::plain()), told);
        assert_eq!(rescan_text(&Rescan::default(), &Screen::plain()), "");
    }
}
