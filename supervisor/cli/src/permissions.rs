//! `permissions`, `pending`, `grant` and `revoke`, and the question that follows an installation.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use palisade_client::Raw;
use palisade_client::admin::Permissions;
use palisade_protocol::ErrorCode;
use serde::{Deserialize, Serialize};

use crate::Context;
use crate::failure::Failure;
use crate::output::print;
use crate::plugins::{show, target};
use crate::screen::{Cell, Screen, Tone, one_line};
use crate::times::stamp;

/// An answer is a word.
const ANSWER_BYTES_MAX: u64 = 1024;

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct Which<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
}

#[derive(Serialize)]
struct Grant<'a> {
    plugin: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<&'a [String]>,
    definitions: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
}

#[derive(Serialize)]
struct Revoke<'a> {
    plugin: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<&'a [String]>,
    stop: bool,
    forget: bool,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    plugins: Vec<Permissions>,
}

/// `palisade permissions [PLUGIN]`
pub(crate) async fn permissions(context: &Context, plugin: Option<&str>) -> Result<(), Failure> {
    let (plugin, version) = plugin.map_or((None, None), |plugin| {
        let named = target(plugin);
        (Some(named.plugin), named.version)
    });
    let answer = context.operate("permissions", &Which { plugin, version }).await?;
    show(context, &answer, |answer, screen| listed_text(answer, "no plugin asks for anything", screen))
}

/// `palisade pending`
pub(crate) async fn pending(context: &Context) -> Result<(), Failure> {
    let answer = context.operate("pending", &Nothing {}).await?;
    show(context, &answer, |answer, screen| listed_text(answer, "no plugin waits for your consent", screen))
}

/// `palisade grant PLUGIN [PERMISSION…]`
pub(crate) async fn grant(
    context: &Context,
    plugin: &str,
    permissions: &[String],
    yes: bool,
    definitions: bool,
) -> Result<(), Failure> {
    let named = target(plugin);
    if !permissions.is_empty() || definitions {
        let wanted = Grant {
            plugin: named.plugin,
            version: named.version,
            permissions: Some(permissions),
            definitions,
            digest: None,
        };
        let answer = context.operate("grant", &wanted).await?;
        return show(context, &answer, |answer, screen| Ok(one_text(&answer.decode()?, screen)));
    }
    let answer = context.operate("permissions", &Which { plugin: Some(named.plugin), version: named.version }).await?;
    let listed: Listed = answer.decode()?;
    let mut awaiting = listed.plugins.into_iter().filter(|one| one.awaits_consent);
    let Some(first) = awaiting.next() else {
        let waits = format!("{} waits for nobody's consent", one_line(plugin));
        return show(context, &answer, |_, _| {
            Ok(format!("{waits}; `palisade permissions {}` shows what it may do\n", one_line(plugin)))
        });
    };
    if context.json && !yes {
        let text = "with --json nobody is asked: say --yes, or name what you grant";
        return Err(Failure::code(ErrorCode::InvalidParams, text.to_owned()));
    }
    for one in std::iter::once(first).chain(awaiting) {
        if let Some(granted) = ask(context, &one, yes).await? {
            show(context, &granted, |granted, screen| Ok(one_text(&granted.decode()?, screen)))?;
        }
    }
    Ok(())
}

/// `palisade revoke PLUGIN [PERMISSION…]`
pub(crate) async fn revoke(
    context: &Context,
    plugin: &str,
    permissions: &[String],
    stop: bool,
    forget: bool,
) -> Result<(), Failure> {
    let named = target(plugin);
    let permissions = (!permissions.is_empty()).then_some(permissions);
    let wanted = Revoke { plugin: named.plugin, version: named.version, permissions, stop, forget };
    let answer = context.operate("revoke", &wanted).await?;
    show(context, &answer, |answer, screen| Ok(one_text(&answer.decode()?, screen)))
}

/// Asks about what a version wants that has just been installed, if it waits for that.
pub(crate) async fn after_install(context: &Context, id: &str, version: &str, yes: bool) -> Result<(), Failure> {
    let exactly = format!("={version}");
    let which = Which { plugin: Some(id), version: Some(&exactly) };
    let listed: Listed = context.operate("permissions", &which).await?.decode()?;
    match listed.plugins.into_iter().find(|one| one.awaits_consent) {
        None => Ok(()),
        // Whoever reads JSON has had the answer to what was asked.
        Some(_) if context.json && !yes => Ok(()),
        Some(one) => match ask(context, &one, yes).await? {
            Some(granted) if !context.json => print(&one_text(&granted.decode()?, &context.screen)),
            _ => Ok(()),
        },
    }
}

/// Shows what a version asks for, asks whether it may, and does what is answered. Where nobody can be asked, it is said what to do.
/// Returns what was decided, if anything was.
async fn ask(context: &Context, one: &Permissions, yes: bool) -> Result<Option<Raw>, Failure> {
    let name = format!("{}@{}", one_line(&one.plugin), one_line(&one.version));
    if !yes {
        print(&one_text(one, &context.screen))?;
    }
    if let Some(open) = asked(one).find(|permission| is_open(permission)) {
        let open = one_line(open);
        let text = format!("{name} asks for {open} and leaves it to you for what: `palisade grant {name} {open}:…`");
        if yes {
            return Err(Failure::code(ErrorCode::ConsentRequired, text));
        }
        return print(&format!("{text}\n")).map(|()| None);
    }
    if !yes {
        let later = match asked(one).next() {
            Some(_) => format!("`palisade grant {name}` grants it, `palisade revoke {name}` has it run without\n"),
            // Its actions are what it is; without them there is nothing to run.
            None => format!("`palisade grant {name}` agrees to it, `palisade uninstall {name}` removes it\n"),
        };
        if !can_ask(context) {
            return print(&later).map(|()| None);
        }
        if !is_confirmed("Grant all of this? [y/N] ") {
            return print(&format!("nothing is granted, and it takes no calls; {later}")).map(|()| None);
        }
    }
    let exactly = format!("={}", one.version);
    let wanted = Grant {
        plugin: &one.plugin,
        version: Some(&exactly),
        permissions: None,
        definitions: true,
        digest: one.digest.as_deref(),
    };
    context.operate("grant", &wanted).await.map(Some)
}

fn asked(one: &Permissions) -> impl Iterator<Item = &str> {
    one.permissions.iter().filter(|one| one.decision == "asked").map(|one| one.permission.as_str())
}

/// Whether it says nothing of for what, although it could.
fn is_open(permission: &str) -> bool {
    permission != "execute_code" && !permission.contains(':')
}

/// Whether somebody is there to be asked.
pub(crate) fn can_ask(context: &Context) -> bool {
    !context.json && io::stdin().is_terminal() && context.screen.stderr_is_terminal
}

/// Asks, and takes anything but a yes for a no.
pub(crate) fn is_confirmed(question: &str) -> bool {
    eprint_now(question);
    matches!(answered().as_deref(), Some("y" | "yes"))
}

fn eprint_now(text: &str) {
    let mut stderr = io::stderr().lock();
    // Whoever does not see the question does not answer it.
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

/// A line from the terminal, in small letters; none at its end.
fn answered() -> Option<String> {
    let mut line = String::new();
    let read = io::stdin().lock().take(ANSWER_BYTES_MAX).read_line(&mut line).ok()?;
    (read != 0).then(|| line.trim().to_lowercase())
}

fn listed_text(answer: &Raw, none: &str, screen: &Screen) -> Result<String, Failure> {
    let listed: Listed = answer.decode()?;
    if listed.plugins.is_empty() {
        return Ok(format!("{none}\n"));
    }
    let each: Vec<_> = listed.plugins.iter().map(|one| one_text(one, screen)).collect();
    Ok(each.join("\n"))
}

fn one_text(one: &Permissions, screen: &Screen) -> String {
    let name = screen.tone(&format!("{} {}", one_line(&one.plugin), one_line(&one.version)), Tone::Strong);
    let signed = one
        .key
        .as_ref()
        .map_or_else(|| "signed by no trusted key".to_owned(), |key| format!("signed by the key {}", one_line(key)));
    let mut text = format!("{name}  {}  {}\n", one_line(&one.source), screen.tone(&signed, Tone::Faint));
    if one.permissions.is_empty() && one.definitions.is_empty() {
        return text + "it asks for nothing\n";
    }
    let rows: Vec<_> = one
        .permissions
        .iter()
        .map(|permission| {
            let tone = match permission.decision.as_str() {
                "granted" => Tone::Good,
                "asked" => Tone::Careful,
                _ => Tone::Faint,
            };
            let by = permission.by.as_deref().unwrap_or_default();
            let by = match permission.at_unix_ms {
                Some(at) => format!("{by}, {}", stamp(at)),
                None => by.to_owned(),
            };
            vec![
                Cell::new(&permission.permission, Tone::Plain),
                Cell::new(&permission.decision, tone),
                by.into(),
                permission.reason.as_deref().unwrap_or_default().into(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text += &screen.wrapping_table(&["PERMISSION", "DECISION", "BY", "WHY IT ASKS"], &rows);
    }
    let rows: Vec<_> = one
        .definitions
        .iter()
        .map(|definition| {
            vec![
                Cell::new(&definition.action, Tone::Plain),
                Cell::new(&definition.change, Tone::Careful),
                definition.description.as_deref().unwrap_or_default().into(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text += &screen.wrapping_table(&["ACTION", "CHANGE", "DESCRIPTION"], &rows);
    }
    if one.awaits_consent {
        text += &format!("{}\n", screen.tone("it takes no calls before you have decided", Tone::Careful));
    }
    text
}
