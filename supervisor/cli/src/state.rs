//! `palisade state`: what a plugin keeps, as JSON.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use palisade_client::admin::{self, StateChange, StatePair};
use palisade_client::{Items, Raw};
use palisade_protocol::SUPERVISOR_ID;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Context;
use crate::arguments::State;
use crate::attend::Attendant;
use crate::failure::Failure;
use crate::output::{Output, print};
use crate::permissions;
use crate::plugins::{show, target, with};
use crate::screen::{Cell, Screen, Tone, counted, one_line};

/// `palisade state …`
pub(crate) async fn state(context: &Context, state: &State) -> Result<(), Failure> {
    match state {
        State::Show { plugin, key, prefix, after, from } => {
            #[derive(Serialize)]
            struct Show<'a> {
                #[serde(skip_serializing_if = "Option::is_none")]
                key: Option<&'a str>,
                prefix: &'a str,
                #[serde(skip_serializing_if = "Option::is_none")]
                after: Option<&'a str>,
                #[serde(skip_serializing_if = "Option::is_none")]
                from: Option<&'a str>,
            }
            let (after, from) = (after.as_deref(), from.as_deref());
            let shown = Show { key: key.as_deref(), prefix, after, from };
            let answer = context.operate("state_show", &with(plugin, shown)).await?;
            let asked = match (key, prefix.is_empty() && after.is_none()) {
                (Some(_), _) => Asked::One,
                (None, true) => Asked::All,
                (None, false) => Asked::Some,
            };
            show(context, &answer, |answer, screen| text(&answer.decode()?, asked, screen))
        }
        State::Export { plugin, from } => export(context, plugin, from.as_deref()).await,
        State::Import { plugin, file } => import(context, plugin, file).await,
        State::Reset { plugin, yes } => reset(context, plugin, *yes).await,
    }
}

/// Which keys are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// All.
    All,
    /// Those that begin so, or come after one.
    Some,
    /// One, with its value.
    One,
}

fn text(state: &admin::State, asked: Asked, screen: &Screen) -> Result<String, Failure> {
    if asked == Asked::One
        && let [pair] = state.pairs.as_slice()
    {
        let value = pair.value.clone().unwrap_or_default();
        let pretty = serde_json::to_string_pretty(&value).unwrap_or_else(|_| value.to_string());
        return Ok(format!("{pretty}\n"));
    }
    let schema = state.schema.map(|schema| format!(", schema {schema}")).unwrap_or_default();
    let (shown, keys) = (state.pairs.len(), counted(state.keys, "key"));
    let keys = match asked {
        Asked::All | Asked::One => keys,
        // How many there are of those is not known then.
        Asked::Some if state.more => format!("the first {shown} of those, of {keys}"),
        Asked::Some => format!("{shown} of {keys}"),
    };
    let mut text = format!("{keys}, {} on the disk{schema}\n", counted(state.bytes, "byte"));
    let row = |pair: &StatePair| {
        let bytes = pair.bytes.unwrap_or_default().to_string();
        vec![Cell::new(one_line(&pair.key), Tone::Strong), pair.revision.to_string().into(), bytes.into()]
    };
    let rows: Vec<_> = state.pairs.iter().map(row).collect();
    if !rows.is_empty() {
        text += &screen.wrapping_table(&["KEY", "REVISION", "BYTES"], &rows);
    }
    if let Some(last) = state.pairs.last().filter(|_| state.more) {
        text += &format!("there are more: --after {:?}\n", last.key);
    }
    Ok(text)
}

/// How an export ends.
#[derive(Deserialize)]
struct End {
    #[serde(default)]
    schema: Option<u32>,
}

/// Pair by pair, so that none of it is held for longer than it takes to print it. What fails prints no whole document.
async fn export(context: &Context, plugin: &str, from: Option<&str>) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Export<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<&'a str>,
    }
    let mut attendant = Attendant::new(&context.screen, &context.interrupts, "waiting for the daemon");
    let of = with(plugin, Export { from });
    let started = context.client.request(SUPERVISOR_ID, "state_export").params(&of).items::<Raw>();
    let mut items: Items<Raw> = attendant.wait(started, || Ok(())).await??;
    let mut output = Output::new();
    let head = json!({ "palisade_state": 1, "plugin": target(plugin).plugin }).to_string();
    // One document a line is what `--json` promises; else each pair has a line of its own.
    let line = if context.json { "" } else { "\n" };
    let mut before = format!("{},\"pairs\":[{line}", head.trim_end_matches('}'));
    let mut any = false;
    while let Some(pair) = attendant.wait(items.next(), || Ok(())).await? {
        let pair: Value = pair?.decode()?;
        output.write(before.as_bytes())?;
        output.write(pair.to_string().as_bytes())?;
        (before, any) = (format!(",{line}"), true);
    }
    let End { schema } = attendant.wait(items.result::<Raw>(), || Ok(())).await??.decode()?;
    if !any {
        output.write(before.as_bytes())?;
    }
    let schema = schema.map(|schema| format!(",\"schema\":{schema}")).unwrap_or_default();
    output.write(format!("{line}]{schema}}}\n").as_bytes())?;
    output.flush()
}

/// So much is read of stdin: more than the daemon takes.
const STDIN_BYTES_MAX: u64 = 512 << 20;

/// A file with what stands on stdin, for the daemon's user alone; it goes when this is dropped.
struct Spooled(PathBuf);

impl Spooled {
    /// Where the daemon, which is that user's, finds it too: it may have a /tmp of its own. Blocks.
    fn of(mut input: impl Read, daemon: Option<u32>) -> io::Result<Self> {
        let own = rustix::process::geteuid();
        // Only root can give it to another.
        let other = daemon.filter(|daemon| own.is_root() && *daemon != own.as_raw());
        let usual = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let usual = usual.filter(|folder| folder.is_absolute() && other.is_none());
        let folder = usual.unwrap_or_else(|| if own.is_root() { PathBuf::from("/run") } else { std::env::temp_dir() });
        let path = folder.join(format!("palisade-import-{}.json", std::process::id()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let spooled = Self(path);
        if other.is_some() {
            std::os::unix::fs::fchown(&file, other, None)?;
        }
        let read = io::copy(&mut (&mut input).take(STDIN_BYTES_MAX + 1), &mut file)?;
        if STDIN_BYTES_MAX < read {
            return Err(io::Error::other(format!("more than {STDIN_BYTES_MAX} bytes")));
        }
        Ok(spooled)
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

async fn import(context: &Context, plugin: &str, file: &Path) -> Result<(), Failure> {
    let spooled = if file == Path::new("-") {
        let mut attendant = Attendant::new(&context.screen, &context.interrupts, "waiting for stdin");
        let daemon = fs::metadata(context.client.path()).ok().map(|socket| socket.uid());
        let reading = tokio::task::spawn_blocking(move || Spooled::of(io::stdin().lock(), daemon));
        let read = attendant.wait(reading, || Ok(())).await?.map_err(io::Error::other).flatten();
        Some(read.map_err(|error| Failure::usage(format!("stdin cannot be kept for the daemon: {error}")))?)
    } else {
        None
    };
    // What is not there for this user is there for no other. Whatever else is wrong with it, the daemon reads it, and can perhaps.
    if spooled.is_none()
        && let Err(error) = fs::metadata(file)
        && matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    {
        return Err(Failure::usage(format!("{} cannot be read: {error}", file.display()))
            .with_hint(format!("`palisade state export {plugin}` prints what it takes; `-` reads that from stdin")));
    }
    let file = spooled.as_ref().map_or(file, |spooled| &spooled.0);
    // The daemon stands elsewhere.
    let path = std::path::absolute(file).map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    let answer = context.operate("state_import", &with(plugin, json!({ "path": path }))).await;
    let answer = answer.map_err(|failure| match &spooled {
        Some(_) => failure.naming(&path.to_string_lossy(), "stdin"),
        None => failure,
    })?;
    show(context, &answer, |answer, _| {
        let StateChange { id, before, keys } = answer.decode()?;
        Ok(format!("{} keeps {} now, after {before}\n", one_line(&id), counted(keys, "key")))
    })
}

async fn reset(context: &Context, plugin: &str, yes: bool) -> Result<(), Failure> {
    if !yes {
        let state: admin::State = context.operate("state_show", &target(plugin)).await?.decode()?;
        let name = one_line(&state.id);
        if !permissions::can_ask(context) {
            return Err(Failure::usage(format!("{name} would lose {}", counted(state.keys, "key")))
                .with_hint("say --yes if it is to, after a `palisade state export`"));
        }
        if !permissions::is_confirmed(&format!(
            "Have {name} lose all that it keeps, {}? [y/N] ",
            counted(state.keys, "key")
        )) {
            return print("nothing was done\n");
        }
    }
    let answer = context.operate("state_reset", &target(plugin)).await?;
    show(context, &answer, |_, _| Ok(String::new()))
}
