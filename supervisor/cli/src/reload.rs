//! `reload`, `backups` and `rollback`.

use std::path::Path;

use palisade_client::admin::{Backups, KeptState, Reloaded, Reloads};
use palisade_protocol::ErrorCode;
use serde::Serialize;

use crate::Context;
use crate::failure::Failure;
use crate::plugins::show;
use crate::screen::{Cell, Screen, Tone, one_line, short};
use crate::times::stamp;

#[derive(Serialize)]
struct Reload<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<&'a str>,
    dry_run: bool,
}

#[derive(Serialize)]
struct Rollback<'a> {
    plugin: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
    with_state: bool,
}

/// `palisade reload PLUGIN|--all [--dry-run]`
pub(crate) async fn reload(context: &Context, plugin: Option<&str>, dry_run: bool) -> Result<(), Failure> {
    let answer = context.operate("reload", &Reload { plugin, dry_run }).await?;
    let done: Reloads = answer.decode()?;
    show(context, &answer, |_, screen| {
        Ok(done.reloads.iter().map(|one| if dry_run { plan_text(one, screen) } else { text(one, screen) }).collect())
    })?;
    match done.reloads.iter().find_map(|one| one.reason.as_ref().map(|reason| (one, reason))) {
        Some((one, reason)) if !dry_run => {
            Err(Failure::code(ErrorCode::InitializationFailed, format!("{} goes on as it was: {reason}", one.id)))
        }
        _ => Ok(()),
    }
}

/// `palisade backups PLUGIN`
pub(crate) async fn backups(context: &Context, plugin: &str) -> Result<(), Failure> {
    let answer = context.operate("backups", &serde_json::json!({ "plugin": plugin })).await?;
    show(context, &answer, |answer, screen| Ok(backups_text(&answer.decode()?, plugin, screen)))
}

/// `palisade rollback PLUGIN [--to NUMBER] [--with-state]`
pub(crate) async fn rollback(
    context: &Context,
    plugin: &str,
    to: Option<u64>,
    with_state: bool,
) -> Result<(), Failure> {
    let answer = context.operate("rollback", &Rollback { plugin, to, with_state }).await?;
    show(context, &answer, |answer, screen| {
        let done: Reloads = answer.decode()?;
        Ok(done.reloads.iter().map(|one| text(one, screen)).collect())
    })
}

fn text(one: &Reloaded, screen: &Screen) -> String {
    let plugin = screen.tone(&format!("{} {}", one_line(&one.id), one_line(&one.version)), Tone::Strong);
    let how = match (one.reloaded, &one.reason) {
        (true, _) => match &one.idle {
            Some(why) => {
                screen.tone(&format!("is the package now, and takes no calls: {}", one_line(why)), Tone::Careful)
            }
            None => "serves".to_owned(),
        },
        (false, None) => "is as it was".to_owned(),
        (false, Some(reason)) => screen.tone(&format!("goes on as it was: {}", one_line(reason)), Tone::Careful),
    };
    let mut text = format!("{plugin} {how}, sha256 {}\n", one_line(short(&one.digest).as_ref()));
    if let Some(state) = &one.state {
        let (at, aside) = (stamp(state.at_unix_ms), one_line(&state.aside));
        text += &format!("its state is that of {at}; what was written since is kept in {aside}\n");
    }
    text
}

fn plan_text(one: &Reloaded, screen: &Screen) -> String {
    let plugin = screen.tone(&format!("{} {}", one_line(&one.id), one_line(&one.version)), Tone::Strong);
    let steps = one.steps.iter().map(|step| one_line(step)).collect::<Vec<_>>().join(", ");
    let untried = one.untried.as_deref().map(|why| format!(" (not tried first: {})", one_line(why).replace('_', " ")));
    format!("{plugin}: {steps}{}\n", untried.unwrap_or_default())
}

fn backups_text(found: &Backups, plugin: &str, screen: &Screen) -> String {
    packages_text(found, screen) + &states_text(found, plugin, screen)
}

fn states_text(found: &Backups, plugin: &str, screen: &Screen) -> String {
    let Some(folder) = found.states.first().and_then(|one| Path::new(&one.path).parent()) else { return String::new() };
    let row = |one: &KeptState| {
        vec![
            Cell::new(one_line(&one.name), Tone::Strong),
            stamp(one.at_unix_ms).into(),
            format!("{} KiB", one.bytes.div_ceil(1024)).into(),
            one.backup.map_or_else(|| "put aside".to_owned(), |number| format!("kept with backup {number}")).into(),
        ]
    };
    let rows: Vec<_> = found.states.iter().map(row).collect();
    format!(
        "\nwhat it kept, in {}; `palisade state export {} --from COPY` reads one:\n{}",
        one_line(&folder.to_string_lossy()),
        one_line(plugin),
        screen.fitting_table(&["COPY", "AS OF", "SIZE", "WHY"], &rows)
    )
}

fn packages_text(found: &Backups, screen: &Screen) -> String {
    if found.backups.is_empty() {
        return "there is none\n".to_owned();
    }
    let row = |one: &palisade_client::admin::Backup| {
        vec![
            Cell::new(one.number.to_string(), Tone::Strong),
            one_line(&one.version).into(),
            stamp(one.at_unix_ms).into(),
            one.digest.get(..12).unwrap_or(&one.digest).to_owned().into(),
            format!("{} KiB", one.bytes.div_ceil(1024)).into(),
            if one.serves { "it serves now".to_owned() } else { one_line(&one.reason) }.into(),
        ]
    };
    screen.fitting_table(
        &["NUMBER", "VERSION", "UNTIL", "SHA256", "SIZE", "WHY"],
        &found.backups.iter().map(row).collect::<Vec<_>>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_client::admin::{Backup, ExchangedState};

    #[test]
    fn what_became_of_a_reload_is_said() {
        let done = Reloaded {
            id: "echo".into(),
            version: "1.0.0".into(),
            digest: "00ff".into(),
            steps: vec!["switch".into(), "drain".into()],
            untried: Some("old_is_unused".into()),
            reloaded: true,
            idle: None,
            state: None,
            reason: None,
        };
        let screen = Screen::plain();
        assert_eq!(text(&done, &screen), "echo 1.0.0 serves, sha256 00ff\n");
        assert_eq!(plan_text(&done, &screen), "echo 1.0.0: switch, drain (not tried first: old is unused)\n");
        let idle = Reloaded { idle: Some("echo 1.0.0 is disabled".into()), ..done.clone() };
        assert_eq!(
            text(&idle, &screen),
            "echo 1.0.0 is the package now, and takes no calls: echo 1.0.0 is disabled, sha256 00ff\n"
        );
        let aside = "/a\nb".into();
        let back = Reloaded { state: Some(ExchangedState { at_unix_ms: 1_795_202_857_123, aside }), ..done.clone() };
        let told =
            format!("its state is that of {}; what was written since is kept in /a\\nb\n", stamp(1_795_202_857_123));
        assert_eq!(text(&back, &screen), format!("echo 1.0.0 serves, sha256 00ff\n{told}"));
        let kept = Reloaded { reloaded: false, reason: Some("it\x1b crashed".into()), untried: None, ..done };
        assert_eq!(text(&kept, &screen), "echo 1.0.0 goes on as it was: it\\u{1b} crashed, sha256 00ff\n");
        assert_eq!(text(&Reloaded { reason: None, ..kept }, &screen), "echo 1.0.0 is as it was, sha256 00ff\n");
    }

    #[test]
    fn backups_are_listed() {
        let screen = Screen::plain();
        assert_eq!(backups_text(&Backups::default(), "echo", &screen), "there is none\n");
        let one =
            Backup { number: 3, version: "1.0.0".into(), bytes: 1025, reason: "another".into(), ..Backup::default() };
        let state = |name: &str, backup| KeptState {
            name: name.into(),
            path: format!("/state/{name}"),
            backup,
            ..KeptState::default()
        };
        let states = vec![state("aside-7.sqlite3", None), state("backup-5.sqlite3", Some(3))];
        let told = backups_text(&Backups { backups: vec![one], states }, "echo", &screen);
        assert!(
            told.contains("\nwhat it kept, in /state; `palisade state export echo --from COPY` reads one:\n"),
            "{told}"
        );
        let line = |name: &str| told.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        assert!(line("aside-7.sqlite3").ends_with("put aside"), "{told}");
        assert!(line("backup-5.sqlite3").ends_with("kept with backup 3"), "{told}");
        assert!(told.contains("3") && told.contains("2 KiB") && told.contains("another"), "{told}");
    }
}
