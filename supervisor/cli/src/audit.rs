//! `palisade audit`: what was done with plugins, by whom and why.

use palisade_client::admin::{Audit, Trail, TrailEntry};

use crate::failure::Failure;
use crate::plugins::show;
use crate::screen::{Cell, Screen, Tone};
use crate::times::stamp;
use crate::{Context, arguments, arguments::split_target};

/// `palisade audit [PLUGIN] [--since WHEN] [--before NUMBER] [--limit N]`
pub(crate) async fn audit(context: &Context, which: &arguments::Audit) -> Result<(), Failure> {
    let arguments::Audit { plugin, since, before, limit } = which;
    let (plugin, version) = plugin.as_deref().map(split_target).unzip();
    let wanted = Audit { plugin, version: version.flatten(), since_unix_ms: *since, before: *before, limit: *limit };
    let answer = context.operate("audit", &wanted).await?;
    show(context, &answer, |answer, screen| Ok(text(&answer.decode()?, screen)))
}

fn text(trail: &Trail, screen: &Screen) -> String {
    let Some(first) = trail.entries.first() else { return "nothing was done\n".to_owned() };
    let row = |entry: &TrailEntry| {
        vec![
            stamp(entry.at_unix_ms).into(),
            (&entry.who).into(),
            Cell::new(&entry.what, Tone::Strong),
            format!("{} {}", entry.id, entry.version).trim_end().into(),
            (&entry.detail).into(),
        ]
    };
    let rows: Vec<_> = trail.entries.iter().map(row).collect();
    // Where they would stand.
    let more = if trail.more { format!("there are older ones: --before {}\n", first.number) } else { String::new() };
    more + &screen.wrapping_table(&["WHEN", "WHO", "WHAT", "PLUGIN", "WHY"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_a_line_each_the_oldest_first() {
        let text_of = |trail: &Trail| text(trail, &Screen::plain());
        assert_eq!(text_of(&Trail::default()), "nothing was done\n");
        let entry = TrailEntry {
            number: 7,
            at_unix_ms: 1_795_202_857_123,
            who: "uid:0".into(),
            what: "install".into(),
            id: "echo".into(),
            version: "1.0.0".into(),
            detail: "00ff from /srv/e\x1bcho".into(),
        };
        let purge = TrailEntry {
            number: 9,
            what: "purge".into(),
            version: String::new(),
            detail: "its data".into(),
            ..entry.clone()
        };
        insta::assert_snapshot!(text_of(&Trail { entries: vec![entry, purge], more: true }), @r"
        there are older ones: --before 7
        WHEN                      WHO    WHAT     PLUGIN      WHY
        2026-11-20T19:27:37.123Z  uid:0  install  echo 1.0.0  00ff from /srv/e\u{1b}cho
        2026-11-20T19:27:37.123Z  uid:0  purge    echo        its data
        ");
    }
}
