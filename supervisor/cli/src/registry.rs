//! What is known of plugins beside what they do at the moment: `stats`.

use std::time::Duration;

use palisade_client::admin::{Usage, VersionUsage};

use crate::Context;
use crate::failure::Failure;
use crate::plugins::{Nothing, show, target};
use crate::screen::{Cell, Screen, Tone};
use crate::times::since;

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
    let kinds = [
        (usage.errors, "errors"),
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
    use palisade_client::admin::Latency;

    use super::*;

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
        PLUGIN  VERSION  INSTALLED  CALLS  FAILED               P50    P90     P99    MAX   LAST USED
        echo    1.0.0    1          12     1 errors, 2 crashed  91 µs  1.4 ms  55 ms  12 s  0 s ago
        gone    2.0.0    0          0      0                                                never
        ");
    }
}
