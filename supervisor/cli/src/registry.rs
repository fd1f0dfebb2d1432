//! What is known of plugins beside what they do at the moment: `search`, `capabilities`, `stats`, and `deprecate`.

use std::time::Duration;

use palisade_client::admin::{Abilities, Ability, Found, Overview, Providers, Search, Usage, VersionUsage};
use palisade_protocol::StreamKind;
use serde::Serialize;

use crate::failure::Failure;
use crate::plugins::{Nothing, Target, marked, show, target};
use crate::screen::{Cell, Screen, Tone, one_line};
use crate::times::since;
use crate::{Context, arguments};

/// `palisade search [TEXT…]`
pub(crate) async fn search(context: &Context, wanted: &arguments::Search) -> Result<(), Failure> {
    let text = wanted.text.join(" ");
    let query = Search {
        text: Some(text.as_str()).filter(|text| !text.is_empty()),
        tag: wanted.tag.as_deref(),
        capability: wanted.capability.as_deref(),
        kind: wanted.kind.as_deref(),
        permission: wanted.permission.as_deref(),
        state: wanted.state.as_deref(),
    };
    let answer = context.operate("search", &query).await?;
    show(context, &answer, |answer, screen| Ok(found_text(&answer.decode()?, screen)))
}

fn found_text(found: &Found, screen: &Screen) -> String {
    if found.plugins.is_empty() {
        return "no plugin has all of this\n".to_owned();
    }
    let rows: Vec<_> = found
        .plugins
        .iter()
        .map(|hit| {
            vec![
                Cell::new(&hit.id, Tone::Strong),
                (&hit.version).into(),
                (&hit.kind).into(),
                marked(&hit.state, hit.enabled, hit.awaits_consent, hit.deprecated),
                hit.tags.join(" ").into(),
                hit.description.as_ref().unwrap_or(&hit.name).into(),
            ]
        })
        .collect();
    screen.fitting_table(&["PLUGIN", "VERSION", "KIND", "STATE", "TAGS", "DESCRIPTION"], &rows)
}

/// `palisade capabilities [PLUGIN]`
pub(crate) async fn capabilities(context: &Context, plugin: Option<&str>) -> Result<(), Failure> {
    let answer = match plugin {
        Some(plugin) => context.operate("capabilities", &target(plugin)).await?,
        None => context.operate("capabilities", &Nothing {}).await?,
    };
    show(context, &answer, |answer, screen| {
        let overview: Overview = answer.decode()?;
        Ok(overview
            .plugin
            .map_or_else(|| providers_text(&overview.capabilities, screen), |plugin| abilities_text(&plugin, screen)))
    })
}

fn providers_text(capabilities: &[Providers], screen: &Screen) -> String {
    let row = |one: &Providers| vec![Cell::new(&one.capability, Tone::Strong), one.plugins.join(", ").into()];
    screen.wrapping_table(&["CAPABILITY", "PLUGINS"], &capabilities.iter().map(row).collect::<Vec<_>>())
}

fn abilities_text(plugin: &Abilities, screen: &Screen) -> String {
    let id = one_line(&plugin.id);
    let mut text = format!("{} {}\n", screen.tone(&id, Tone::Strong), one_line(&plugin.version));
    text += &format!("kind: {}\n", one_line(&plugin.kind));
    if !plugin.capabilities.is_empty() {
        text += &format!("capabilities: {}\n", one_line(&plugin.capabilities.join(", ")));
    }
    if !plugin.announced {
        text += &format!("its actions are as its manifest has them; `palisade start {id}` has its program say them\n");
    }
    if plugin.actions.is_empty() {
        return text;
    }
    let rows: Vec<_> = plugin
        .actions
        .iter()
        .map(|action| {
            vec![
                Cell::new(&action.name, Tone::Strong),
                action.parameters.join(" ").into(),
                traits(action).into(),
                one_line(&action.description).into(),
            ]
        })
        .collect();
    text.push('\n');
    text + &screen.wrapping_table(&["ACTION", "PARAMETERS", "TRAITS", "DESCRIPTION"], &rows)
}

fn traits(action: &Ability) -> String {
    let stream = |stream: StreamKind, items, bytes| match stream {
        StreamKind::Items => items,
        StreamKind::Bytes => bytes,
    };
    let traits = [
        action.reads.map(|reads| stream(reads, "reads items", "reads bytes")),
        action.streams.map(|streams| stream(streams, "streams items", "streams bytes")),
        action.progress.then_some("progress"),
        action.idempotent.then_some("idempotent"),
        action.endless.then_some("endless"),
    ];
    traits.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[derive(Serialize)]
struct Deprecate<'a> {
    #[serde(flatten)]
    target: Target<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    undo: bool,
}

/// `palisade deprecate PLUGIN`
pub(crate) async fn deprecate(
    context: &Context,
    plugin: &str,
    reason: Option<&str>,
    undo: bool,
) -> Result<(), Failure> {
    let answer = context.operate("deprecate", &Deprecate { target: target(plugin), reason, undo }).await?;
    show(context, &answer, |_, _| Ok(String::new()))
}

/// `palisade stats [PLUGIN]`
pub(crate) async fn stats(context: &Context, plugin: Option<&str>) -> Result<(), Failure> {
    let answer = match plugin {
        Some(plugin) => context.operate("stats", &target(plugin)).await?,
        None => context.operate("stats", &Nothing {}).await?,
    };
    show(context, &answer, |answer, screen| Ok(usage_text(&answer.decode()?, screen)))
}

fn usage_text(usage: &Usage, screen: &Screen) -> String {
    let rows: Vec<_> = usage
        .plugins
        .iter()
        .map(|one| {
            let took = |of: fn(&palisade_client::admin::Latency) -> u64| -> Cell {
                one.latency.as_ref().map(|latency| took(of(latency))).unwrap_or_default().into()
            };
            vec![
                Cell::new(&one.id, if one.present { Tone::Strong } else { Tone::Faint }),
                (&one.version).into(),
                one.installs.to_string().into(),
                one.calls.to_string().into(),
                failures(one).into(),
                took(|latency| latency.p50_us),
                took(|latency| latency.p90_us),
                took(|latency| latency.p99_us),
                took(|latency| latency.max_us),
                one.last_used_unix_ms.map_or_else(|| "never".to_owned(), |at| format!("{} ago", since(at))).into(),
            ]
        })
        .collect();
    let heading = ["PLUGIN", "VERSION", "INSTALLED", "CALLS", "FAILED", "P50", "P90", "P99", "MAX", "LAST USED"];
    screen.wrapping_table(&heading, &rows)
}

/// What ended otherwise than well, by kind.
fn failures(usage: &VersionUsage) -> String {
    let errors = if usage.errors == 1 { "error" } else { "errors" };
    let kinds = [
        (usage.errors, errors),
        (usage.timed_out, "timed out"),
        (usage.crashed, "crashed"),
        (usage.refused, "refused"),
        (usage.cancelled, "cancelled"),
    ];
    let told: Vec<_> =
        kinds.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if told.is_empty() { "0".to_owned() } else { told.join(", ") }
}

/// Microseconds in the unit that fits: `90 µs`, `1.4 ms`, `12 s`.
fn took(microseconds: u64) -> String {
    let duration = Duration::from_micros(microseconds);
    match microseconds {
        0..1_000 => format!("{microseconds} µs"),
        1_000..10_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        10_000..1_000_000 => format!("{} ms", duration.as_millis()),
        1_000_000..10_000_000 => format!("{:.1} s", duration.as_secs_f64()),
        _ => format!("{} s", duration.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use palisade_client::admin::{Hit, Latency};

    use super::*;

    #[test]
    fn what_was_found_is_a_line_each() {
        let hit = Hit { id: "echo".into(), version: "1.0.0".into(), kind: "tool".into(), ..Hit::default() };
        let plugins = vec![
            Hit { enabled: true, state: "active".into(), tags: vec!["a".into(), "b".into()], ..hit.clone() },
            Hit { description: Some("Says\x1b it again".into()), ..hit },
        ];
        insta::assert_snapshot!(found_text(&Found { plugins }, &Screen::plain()), @r"
        PLUGIN  VERSION  KIND  STATE     TAGS  DESCRIPTION
        echo    1.0.0    tool  active    a b
        echo    1.0.0    tool  disabled        Says\u{1b} it again
        ");
    }

    #[test]
    fn what_a_plugin_can_do_is_a_line_for_each_action() {
        let plugin = Abilities {
            id: "echo".into(),
            version: "1.0.0".into(),
            kind: "tool".into(),
            capabilities: vec!["custom".into()],
            announced: false,
            actions: vec![Ability {
                name: "count".into(),
                description: "Counts".into(),
                parameters: vec!["to".into(), "from?".into()],
                streams: Some(StreamKind::Items),
                progress: true,
                ..Ability::default()
            }],
        };
        insta::assert_snapshot!(abilities_text(&plugin, &Screen::plain()), @r"
        echo 1.0.0
        kind: tool
        capabilities: custom
        its actions are as its manifest has them; `palisade start echo` has its program say them

        ACTION  PARAMETERS  TRAITS                   DESCRIPTION
        count   to from?    streams items, progress  Counts
        ");
        let providers =
            [Providers { capability: "custom".into(), plugins: vec!["echo 1.0.0".into(), "a 2.0.0".into()] }];
        insta::assert_snapshot!(providers_text(&providers, &Screen::plain()), @r"
        CAPABILITY  PLUGINS
        custom      echo 1.0.0, a 2.0.0
        ");
    }

    #[test]
    fn usage_is_a_line_for_each_version() {
        let latency = Latency { answers: 9, p50_us: 91, p90_us: 1_420, p99_us: 55_300, max_us: 12_000_000 };
        let usage = Usage {
            plugins: vec![
                VersionUsage {
                    id: "echo".into(),
                    version: "1.0.0".into(),
                    present: true,
                    installs: 1,
                    calls: 12,
                    ok: 9,
                    errors: 1,
                    crashed: 2,
                    last_used_unix_ms: Some(u64::MAX),
                    latency: Some(latency),
                    ..VersionUsage::default()
                },
                VersionUsage { id: "gone".into(), version: "2.0.0".into(), ..VersionUsage::default() },
            ],
        };
        insta::assert_snapshot!(usage_text(&usage, &Screen::plain()), @r"
        PLUGIN  VERSION  INSTALLED  CALLS  FAILED              P50    P90     P99    MAX   LAST USED
        echo    1.0.0    1          12     1 error, 2 crashed  91 µs  1.4 ms  55 ms  12 s  0 s ago
        gone    2.0.0    0          0      0                                               never
        ");
    }
}
