//! `palisade config`: what a plugin is configured with, and how that is changed while the daemon runs.

use palisade_client::admin::{Configuration, ConfigurationChange, PastConfiguration};
use palisaded::model::configuration::Place;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::output::Output;
use crate::params::Assignment;
use crate::plugins::{Target, show, target};
use crate::screen::{Cell, Screen, Tone, one_line};
use crate::times::stamp;
use crate::value::{self, Layout};
use crate::{Context, arguments};

/// So much of a value is shown where its change is.
const VALUE_SHOWN_MAX: usize = 60;

#[derive(Serialize)]
struct Change<'a> {
    #[serde(flatten)]
    target: Target<'a>,
    set: Map<String, Value>,
    unset: &'a [String],
    undo: bool,
}

/// `palisade config PLUGIN [KEY=VALUE…]`: shows, or changes and is silent where it holds at once.
pub(crate) async fn config(context: &Context, wanted: &arguments::Config) -> Result<(), Failure> {
    let arguments::Config { plugin, assignments, unset, undo, history } = wanted;
    if assignments.is_empty() && unset.is_empty() && !undo {
        let answer = context.operate("config", &target(plugin)).await?;
        return show(context, &answer, |answer, screen| {
            let configuration = answer.decode()?;
            Ok(if *history { history_text(&configuration, screen) } else { text(&configuration, screen) })
        });
    }
    let set = if assignments.is_empty() { Map::new() } else { assigned(context, plugin, assignments).await? };
    let change = Change { target: target(plugin), set, unset, undo: *undo };
    let answer = context.operate("configure", &change).await?;
    let mut output = Output::new();
    if context.json {
        output.line(&value::to_json(&answer, Layout::Line)?)?;
    } else {
        let answer: ConfigurationChange = answer.decode()?;
        for note in &answer.notes {
            output.line(&one_line(note))?;
        }
    }
    output.flush()
}

/// What is to be set, typed by the plugin's schema.
async fn assigned(context: &Context, plugin: &str, assignments: &[Assignment]) -> Result<Map<String, Value>, Failure> {
    let shown: Configuration = context.operate("config", &target(plugin)).await?.decode()?;
    let mut set = Map::new();
    for assignment in assignments {
        let key = assignment.key();
        let place = Place::parse(key).map_err(|misplaced| Failure::usage(misplaced.to_string()))?;
        let value = assignment.at(place.names(), shown.schema.as_ref())?;
        if set.insert(place.to_string(), value).is_some() {
            return Err(Failure::usage(format!("`{key}` is given twice")).with_hint("leave one of them out"));
        }
    }
    Ok(set)
}

fn text(configuration: &Configuration, screen: &Screen) -> String {
    let mut text = String::new();
    for violation in &configuration.unfit {
        let at = if violation.at.is_empty() { "as a whole" } else { &violation.at };
        let line = format!("does not fit: {at}: {}", violation.problem);
        text += &format!("{}\n", screen.tone(&one_line(&line), Tone::Bad));
    }
    let mut rows = Vec::new();
    leaves(&configuration.configuration, &mut String::new(), &mut |at, value| {
        rows.push(vec![Cell::new(at, Tone::Strong), value.to_string().into(), origin(configuration, at).into()]);
    });
    if rows.is_empty() {
        return text + "nothing is configured\n";
    }
    text + &screen.wrapping_table(&["PLACE", "VALUE", "FROM"], &rows)
}

/// Every value that is no object, with its place; an object only where there is nothing in it.
fn leaves(value: &Value, at: &mut String, found: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, field) in fields {
                let before = at.len();
                at.push('/');
                at.push_str(&name.replace('~', "~0").replace('/', "~1"));
                leaves(field, at, found);
                at.truncate(before);
            }
        }
        // Nothing at all.
        Value::Object(_) if at.is_empty() => {}
        _ => found(at, value),
    }
}

/// Whose word a value is.
fn origin(configuration: &Configuration, at: &str) -> &'static str {
    let holds = |(place, said): (&String, &Value)| {
        at.strip_prefix(place.as_str()).is_some_and(|rest| said.pointer(rest).is_some())
    };
    if configuration.said.iter().any(holds) {
        "palisade config"
    } else if configuration.file.pointer(at).is_some() {
        "palisade.toml"
    } else {
        "default"
    }
}

/// Each place with what was said of it before and after.
fn changes_text(change: &PastConfiguration) -> String {
    let shown = |value: Option<&Value>| {
        let text = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
        match text.char_indices().nth(VALUE_SHOWN_MAX) {
            Some((cut, _)) => format!("{}…", &text[..cut]),
            None => text,
        }
    };
    let one = |place: &String| format!("{place} {} → {}", shown(change.was.get(place)), shown(change.said.get(place)));
    change.places.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn history_text(configuration: &Configuration, screen: &Screen) -> String {
    let row = |change: &PastConfiguration| {
        let undone = if change.undone { "taken back" } else { "" };
        vec![
            change.number.to_string().into(),
            stamp(change.at_unix_ms).into(),
            (&change.by).into(),
            changes_text(change).into(),
            undone.into(),
        ]
    };
    let rows: Vec<_> = configuration.history.iter().map(row).collect();
    if rows.is_empty() {
        return "it was not changed\n".to_owned();
    }
    screen.wrapping_table(&["CHANGE", "WHEN", "BY", "WHAT", ""], &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_value_is_shown_with_its_place_and_whose_word_it_is() {
        let configuration: Configuration = serde_json::from_value(json!({
            "id": "a", "version": "1.0.0",
            "configuration": {
                "server": { "host": "h", "port": 1, "tls": {} }, "a/b": [1, {}], "proxy": { "host": "p", "port": 2 }, "proxying": true
            },
            "file": { "server": { "host": "x", "tls": {} } },
            "said": { "/server/host": "h", "/a~1b": [1, {}], "/proxy": { "host": "p" } },
            "history": [{ "number": 1, "at_unix_ms": 1_795_202_857_123_u64, "by": "uid:0", "places": ["/a", "/b"],
                          "was": { "/a": "x" }, "said": { "/b": "y".repeat(70) }, "undone": true }],
            "unfit": [{ "at": "/server", "problem": "\"key\" is a required property" }],
        }))
        .unwrap();
        let shown = text(&configuration, &Screen::plain());
        let lines: Vec<_> = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "does not fit: /server: \"key\" is a required property",
                "PLACE VALUE FROM",
                "/a~1b [1,{}] palisade config",
                "/proxy/host \"p\" palisade config",
                "/proxy/port 2 default",
                "/proxying true default",
                "/server/host \"h\" palisade config",
                "/server/port 1 default",
                "/server/tls {} palisade.toml",
            ]
        );
        let shown = history_text(&configuration, &Screen::plain());
        let line = format!("uid:0  /a \"x\" → nothing, /b nothing → \"{}…  taken back\n", "y".repeat(59));
        assert!(shown.ends_with(&line), "{shown}");
    }
}
