//! `palisade limit`: changes how much a plugin may have while the daemon runs.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::Context;
use crate::failure::Failure;
use crate::output::Output;
use crate::plugins::{Target, target};
use crate::screen::one_line;
use crate::value::{self, Layout};

/// One limit as it was given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    name: &'static str,
    value: Value,
}

/// Reads `memory=256MiB`, `cpu=25%`, `pids=64`, `disk=2GiB`, `logs=64KiB`, `cpu_over=restart`; the names of the configuration are
/// understood as well.
pub(crate) fn change(text: &str) -> Result<Change, String> {
    let (name, given) = text.split_once('=').ok_or("write it as `memory=256MiB`")?;
    let (name, value) = match name {
        "memory" | "memory_mib" => ("memory_mib", mebibytes(given)?),
        "disk" | "disk_mib" => ("disk_mib", mebibytes(given)?),
        "logs" | "log_kib_per_second" => ("log_kib_per_second", kibibytes(given)?),
        "file_size" | "file_size_mib" => ("file_size_mib", mebibytes(given)?),
        "cpu" | "cpu_percent" => ("cpu_percent", number(given.strip_suffix('%').unwrap_or(given))?),
        "pids" => ("pids", number(given)?),
        "open_files" => ("open_files", number(given)?),
        "cpu_over" if matches!(given, "warn" | "restart") => ("cpu_over", given.into()),
        "cpu_over" => return Err("it is `warn` or `restart`".to_owned()),
        _ => return Err("there are memory, cpu, pids, disk, logs and cpu_over".to_owned()),
    };
    Ok(Change { name, value })
}

fn number(text: &str) -> Result<Value, String> {
    text.parse::<u64>().map(Value::from).map_err(|_| format!("{text:?} is no whole number"))
}

/// A size in MiB, or in another unit of which it is a whole number of MiB.
fn mebibytes(text: &str) -> Result<Value, String> {
    size(text, &[("M", 1), ("G", 1 << 10), ("T", 1 << 20)], "MiB, GiB or TiB")
}

/// The same in KiB.
fn kibibytes(text: &str) -> Result<Value, String> {
    size(text, &[("K", 1), ("M", 1 << 10), ("G", 1 << 20)], "KiB, MiB or GiB")
}

/// A number of the smallest of these units; without one it is meant in that.
fn size(text: &str, units: &[(&str, u64)], named: &str) -> Result<Value, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let letter = unit.strip_suffix("iB").unwrap_or(unit);
    let known = units.iter().find(|(name, _)| *name == letter).map(|(_, factor)| *factor);
    let factor = known.or(unit.is_empty().then_some(1));
    let factor = factor.ok_or_else(|| format!("sizes are whole numbers of {named}"))?;
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no size; write it as `256MiB`"))?;
    number.checked_mul(factor).map(Value::from).ok_or_else(|| format!("{text:?} is too much"))
}

#[derive(Serialize)]
struct Parameters<'a> {
    #[serde(flatten)]
    target: Target<'a>,
    #[serde(flatten)]
    limits: Map<String, Value>,
}

/// `palisade limit PLUGIN NAME=VALUE…`: silent where it holds at once.
pub(crate) async fn limit(context: &Context, plugin: &str, changes: Vec<Change>) -> Result<(), Failure> {
    let limits = changes.into_iter().map(|change| (change.name.to_owned(), change.value)).collect();
    let parameters = Parameters { target: target(plugin), limits };
    let answer = context.operate("limit", &parameters).await?;
    let mut output = Output::new();
    if context.json {
        output.line(&value::to_json(&answer, Layout::Line)?)?;
    } else {
        let answer: Value = answer.decode()?;
        for note in answer.get("notes").and_then(Value::as_array).unwrap_or(&Vec::new()) {
            output.line(&one_line(note.as_str().unwrap_or_default()))?;
        }
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_are_read_in_the_units_of_people() {
        for (text, name, value) in [
            ("memory=256MiB", "memory_mib", json!(256)),
            ("memory_mib=256", "memory_mib", json!(256)),
            ("disk=2GiB", "disk_mib", json!(2048)),
            ("logs=64KiB", "log_kib_per_second", json!(64)),
            ("logs=2M", "log_kib_per_second", json!(2048)),
            ("log_kib_per_second=7", "log_kib_per_second", json!(7)),
            ("cpu=25%", "cpu_percent", json!(25)),
            ("cpu=200", "cpu_percent", json!(200)),
            ("pids=64", "pids", json!(64)),
            ("cpu_over=restart", "cpu_over", json!("restart")),
        ] {
            assert_eq!(change(text), Ok(Change { name, value }), "{text}");
        }
        for text in [
            "memory",
            "memory=",
            "memory=1KB",
            "memory=-1",
            "cpu=half",
            "cpu_over=kill",
            "swap=1",
            "memory=99999999999999999T",
        ] {
            assert!(change(text).is_err(), "{text}");
        }
    }
}
