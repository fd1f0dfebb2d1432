//! `reload`, `backups` and `rollback`.

use std::path::Path;

use palisade_client::admin::{Backups, KeptState, Reloaded, Reloads};
use palisade_protocol::ErrorCode;
use serde::Serialize;

use crate::Context;
use crate::failure::Failure;
use crate::plugins::{Target, show, target, with};
use crate::screen::{Cell, Screen, Tone, one_line, short};
use crate::times::stamp;

#[derive(Serialize)]
struct Reload<'a> {
    #[serde(flatten)]
    of: Option<Target<'a>>,
    dry_run: bool,
}

#[derive(Serialize)]
struct Rollback {
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
    with_state: bool,
}

/// `palisade reload PLUGIN|--all [--dry-run]`
pub(crate) async fn reload(context: &Context, plugin: Option<&str>, dry_run: bool) -> Result<(), Failure> {
    let answer = context.operate("reload", &Reload { of: plugin.map(target), dry_run }).await?;
    let done: Reloads = answer.decode()?;
    show(context, &answer, |_, screen| {
        let told = done.reloads.iter().filter(|one| dry_run || failure(one).is_none());
        Ok(told.map(|one| if dry_run { plan_text(one, screen) } else { text(one, screen) }).collect())
    })?;
    if dry_run {
        return Ok(());
    }
    let mut first = None;
    for failure in done.reloads.iter().filter_map(failure) {
        failure.print(&context.screen, context.json);
        first.get_or_insert(Failure::silent(failure.status));
    }
    first.map_or(Ok(()), Err)
}

/// That the package in its folder is not used, unless that is an operator's word.
fn failure(one: &Reloaded) -> Option<Failure> {
    let reason = one.reason.as_ref().filter(|_| !one.returned)?;
    let (id, version) = (one_line(&one.id), one_line(&one.version));
    let failure = Failure::code(
        ErrorCode::InitializationFailed,
        format!("{id} {version} goes on as it was: {}", one_line(reason)),
    );
    Some(failure.with_hint(format!("`palisade status {id}@{version}` shows how it is")))
}

/// `palisade backups PLUGIN`
pub(crate) async fn backups(context: &Context, plugin: &str) -> Result<(), Failure> {
    let answer = context.operate("backups", &target(plugin)).await?;
    show(context, &answer, |answer, screen| Ok(backups_text(&answer.decode()?, plugin, screen)))
}

/// `palisade rollback PLUGIN [--to NUMBER] [--with-state]`
pub(crate) async fn rollback(
    context: &Context,
    plugin: &str,
    to: Option<u64>,
    with_state: bool,
) -> Result<(), Failure> {
    let answer = context.operate("rollback", &with(plugin, Rollback { to, with_state })).await?;
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
        (false, Some(reason)) if one.returned => {
            let again = format!("`palisade reload {}` has it tried", one_line(&one.id));
            let text = format!("is passed over, and goes on as it was: {}; {again}", one_line(reason));
            screen.tone(&text, Tone::Careful)
        }
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
    let untried = one.untried.as_deref().map(|why| format!(", without a trial: {}", why_untried(why)));
    let untried = untried.filter(|_| !one.steps.is_empty()).unwrap_or_default();
    let what = match (&one.reason, one.steps.is_empty()) {
        (Some(reason), true) => screen.tone(&format!("would go on as it is: {}", one_line(reason)), Tone::Careful),
        (Some(reason), false) => {
            screen.tone(&format!("would be tried, and not serve: {}", one_line(reason)), Tone::Careful)
        }
        (None, true) => "would go on as it is".to_owned(),
        (None, false) => format!("would serve, by these steps{untried}"),
    };
    let mut text = format!("{plugin} {what}, sha256 {}\n", one_line(short(&one.digest).as_ref()));
    for note in &one.notes {
        text += &format!("{}\n", one_line(note));
    }
    let row = |step: &String| {
        let undo = one.undo.get(step).map(|undo| meaning(&UNDOES, undo)).unwrap_or_default();
        vec![Cell::new(one_line(step), Tone::Strong), meaning(&STEPS, step).into(), undo.into()]
    };
    let rows: Vec<_> = one.steps.iter().map(row).collect();
    if !rows.is_empty() {
        text += &screen.wrapping_table(&["STEP", "WHAT IS DONE", "IF A LATER ONE FAILS"], &rows);
    }
    text
}

/// What the steps of a plan are, in the order in which they come at most.
const STEPS: [(&str, &str); 13] = [
    ("stage", "the package is copied"),
    ("verify", "the copy is checked"),
    ("rehearse", "a process of it brings a copy of the state into its form, becomes active, and ends"),
    ("hold", "calls that come wait within their deadlines"),
    ("keep", "a copy of the state is kept"),
    ("start", "a process of it starts"),
    ("hello", "it says what it is"),
    ("initialize", "it takes its configuration and is ready"),
    ("self_test", "it finds itself well, and is active"),
    ("switch", "calls go to it"),
    ("drain", "the one before ends the calls that it has"),
    ("stop", "the one before stops"),
    ("probation", "a failure leads back for some time"),
];

/// And what takes them back.
const UNDOES: [(&str, &str); 4] = [
    ("drop", "its process ends"),
    ("release", "the one before starts again, and has the calls that wait"),
    ("put_back", "the state is what it was"),
    ("switch_back", "calls go to the one before again"),
];

/// What a word means; a newer daemon may have others.
fn meaning(words: &[(&str, &str)], word: &str) -> String {
    let known = words.iter().find(|(known, _)| *known == word);
    known.map_or_else(|| one_line(word).replace('_', " "), |(_, meaning)| (*meaning).to_owned())
}

fn why_untried(why: &str) -> String {
    const WHY: [(&str, &str); 4] = [
        ("old_is_unused", "the one before takes no calls"),
        ("old_is_paused", "the one before is paused"),
        ("new_is_unused", "it waits for something"),
        ("nothing_to_return_to", "there is no copy of the one before"),
    ];
    meaning(&WHY, why)
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
            if one.serves { "-".to_owned() } else { stamp(one.at_unix_ms) }.into(),
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
    use palisaded::model::reload_plan::{Manner, Plan};

    #[test]
    fn what_became_of_a_reload_is_said() {
        let done = Reloaded {
            id: "echo".into(),
            version: "1.0.0".into(),
            digest: "00ff".into(),
            steps: vec!["switch".into(), "drain".into()],
            undo: [("switch".to_owned(), "switch_back".to_owned())].into(),
            untried: Some("old_is_unused".into()),
            reloaded: true,
            idle: None,
            state: None,
            reason: None,
            returned: false,
            notes: Vec::new(),
        };
        let screen = Screen::plain();
        assert_eq!(text(&done, &screen), "echo 1.0.0 serves, sha256 00ff\n");
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
        let failed = failure(&kept).expect("it is one");
        assert_eq!(
            (failed.message(), failed.hint(), failed.status),
            (
                "echo 1.0.0 goes on as it was: it\\u{1b} crashed",
                Some("`palisade status echo@1.0.0` shows how it is"),
                ErrorCode::InitializationFailed.exit_status()
            )
        );
        let returned = Reloaded { returned: true, reason: Some("uid:0 has returned to 0.9.0".into()), ..kept.clone() };
        assert_eq!(failure(&returned), None, "that is an operator's word");
        assert_eq!(
            text(&returned, &screen),
            "echo 1.0.0 is passed over, and goes on as it was: uid:0 has returned to 0.9.0; `palisade reload echo` has it tried, sha256 00ff\n"
        );
        assert_eq!(text(&Reloaded { reason: None, ..kept }, &screen), "echo 1.0.0 is as it was, sha256 00ff\n");
    }

    /// Each step that there is has its sentence, and what takes it back.
    #[test]
    fn a_plan_is_told_step_by_step() {
        let plan = Plan::new(None, Manner::Migrating);
        let words = |value: serde_json::Value| serde_json::from_value(value).expect("they are texts");
        let told = Reloaded {
            id: "counter".into(),
            version: "2.0.0".into(),
            digest: "00ff".into(),
            steps: words(serde_json::json!(plan.steps)),
            undo: serde_json::from_value(serde_json::json!(plan.undoes())).expect("they are texts"),
            notes: vec!["what it keeps has schema 1".into()],
            ..Reloaded::default()
        };
        insta::assert_snapshot!(plan_text(&told, &Screen::plain()), @r"
        counter 2.0.0 would serve, by these steps, sha256 00ff
        what it keeps has schema 1
        STEP        WHAT IS DONE                                                                        IF A LATER ONE FAILS
        stage       the package is copied
        verify      the copy is checked
        rehearse    a process of it brings a copy of the state into its form, becomes active, and ends
        hold        calls that come wait within their deadlines                                         the one before starts again, and has the calls that wait
        drain       the one before ends the calls that it has
        stop        the one before stops
        keep        a copy of the state is kept                                                         the state is what it was
        start       a process of it starts                                                              its process ends
        hello       it says what it is
        initialize  it takes its configuration and is ready
        self_test   it finds itself well, and is active
        switch      calls go to it                                                                      calls go to the one before again
        probation   a failure leads back for some time
        ");
        for (steps, reason, line) in [
            (
                vec!["stage".to_owned()],
                Some("it\n crashes"),
                "counter 2.0.0 would be tried, and not serve: it\\n crashes, sha256 00ff",
            ),
            (vec![], Some("it is paused"), "counter 2.0.0 would go on as it is: it is paused, sha256 00ff"),
            (vec![], None, "counter 2.0.0 would go on as it is, sha256 00ff"),
        ] {
            let one = Reloaded { steps, reason: reason.map(str::to_owned), notes: vec![], ..told.clone() };
            assert_eq!(plan_text(&one, &Screen::plain()).lines().next(), Some(line));
        }
        let untried = Reloaded { untried: Some("old_is_unused".into()), steps: vec!["switch".into()], ..told };
        let line =
            "counter 2.0.0 would serve, by these steps, without a trial: the one before takes no calls, sha256 00ff";
        assert_eq!(plan_text(&untried, &Screen::plain()).lines().next(), Some(line));
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
        let at = 1_795_202_857_123;
        let one = Backup { number: 3, at_unix_ms: at, serves: true, reason: "another".into(), ..Backup::default() };
        let told = backups_text(&Backups { backups: vec![one], states: Vec::new() }, "it", &screen);
        assert!(told.contains("it serves now") && !told.contains(&stamp(at)) && !told.contains("another"), "{told}");
    }
}
