//! `palisade secret`: sets and removes what a plugin is given only if it asks for it, and shows which there is.
//!
//! A secret is read from stdin and from nowhere else, past the buffers of the standard library, which nobody wipes; from a terminal without
//! showing it.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use palisade_client::Raw;
use palisade_client::admin::{SecretStatus, Secrets, secret_params};
use palisade_protocol::SUPERVISOR_ID;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::json;
use zeroize::{Zeroize, Zeroizing};

use crate::arguments::Secret;
use crate::attend::Attendant;
use crate::failure::Failure;
use crate::output::print;
use crate::plugins::{of, show, target, with};
use crate::screen::{Cell, Screen, Tone, one_line};
use crate::times::stamp;
use crate::{Context, patiently, value};

/// As long as the daemon takes one.
const BYTES_MAX: usize = palisaded::secrets::BYTES_MAX;

/// `palisade secret …`
pub(crate) async fn secret(context: &Context, secret: &Secret) -> Result<(), Failure> {
    match secret {
        Secret::Set { plugin, name } => set(context, plugin, name).await,
        Secret::List { plugin } => {
            let answer = context.operate("secret_list", &target(plugin)).await?;
            show(context, &answer, |answer, screen| Ok(list_text(&answer.decode()?, screen)))
        }
        Secret::Remove { plugin, name } => {
            let answer = context.operate("secret_remove", &with(plugin, &json!({ "name": name }))).await?;
            told(context, &answer)
        }
    }
}

async fn set(context: &Context, plugin: &str, name: &str) -> Result<(), Failure> {
    if let Some((name, _)) = name.split_once('=') {
        // It is not said again.
        let message = "a secret is no argument, which others can see, and which a shell remembers".to_owned();
        let hint = format!(
            "`palisade secret set {} {}` reads it from stdin; better take another one than what stood there",
            one_line(plugin),
            one_line(name)
        );
        return Err(Failure::usage(message).with_hint(hint));
    }
    let text = given(context, plugin, name).await?;
    let params = secret_params(of(plugin), name, &text)?;
    drop(text);
    let mut attendant = Attendant::new(&context.screen, &context.interrupts, "waiting for the daemon");
    let request = || context.client.request(SUPERVISOR_ID, "secret_set").params(&params).secret();
    let answer: Raw = attendant.wait(patiently(None, request), || Ok(())).await??;
    told(context, &answer)
}

/// Silent, as everything that was done.
fn told(context: &Context, answer: &Raw) -> Result<(), Failure> {
    if context.json { print(&format!("{}\n", value::to_json(answer, value::Layout::Line)?)) } else { Ok(()) }
}

/// What stands on stdin, without the end of its last line.
async fn given(context: &Context, plugin: &str, name: &str) -> Result<Zeroizing<String>, Failure> {
    let quiet = if io::stdin().is_terminal() { Quiet::on_stdin() } else { None };
    if quiet.is_some() {
        let mut stderr = io::stderr().lock();
        // Whoever does not see it can type all the same.
        let _ = write!(stderr, "Secret {} of {} (not shown): ", one_line(name), one_line(plugin));
        let _ = stderr.flush();
    }
    let one_line_only = quiet.is_some();
    let mut attendant = Attendant::new(&context.screen, &context.interrupts, "reading stdin");
    // A thread of its own, as there may be nothing to read for long.
    let read = tokio::task::spawn_blocking(move || read_stdin(one_line_only));
    let read = attendant.wait(read, || Ok(())).await;
    // Also where it was interrupted.
    drop(quiet);
    let failed = |error: io::Error| Failure::usage(format!("stdin cannot be read: {error}"));
    let bytes = read?.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)?;
    text_of(bytes, (plugin, name))
}

/// Reads to the end, or to the end of a line, but no more than shows that it is too much.
fn read_stdin(one_line_only: bool) -> io::Result<Zeroizing<Vec<u8>>> {
    let stdin = io::stdin();
    // It never grows.
    let mut buffer = Zeroizing::new(vec![0; BYTES_MAX + 3]);
    let mut filled = 0;
    while filled < buffer.len() {
        let read = match rustix::io::read(stdin.as_fd(), &mut buffer[filled..]) {
            Err(rustix::io::Errno::INTR) => continue,
            read => read?,
        };
        filled += read;
        if read == 0 || (one_line_only && buffer[..filled].ends_with(b"\n")) {
            break;
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

fn text_of(mut bytes: Zeroizing<Vec<u8>>, (plugin, name): (&str, &str)) -> Result<Zeroizing<String>, Failure> {
    let ending = if bytes.ends_with(b"\r\n") { 2 } else { usize::from(bytes.ends_with(b"\n")) };
    let length = bytes.len() - ending;
    bytes.truncate(length);
    match length {
        0 => Err(Failure::usage("there is no secret on stdin").with_hint(format!(
            "as in `printf %s \"$KEY\" | palisade secret set {plugin} {name}`, or type it on a terminal"
        ))),
        length if BYTES_MAX < length => Err(Failure::usage(format!("a secret has at most {BYTES_MAX} bytes"))),
        _ => String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new).map_err(|error| {
            error.into_bytes().zeroize();
            Failure::usage("a secret is text in UTF-8, and this is not")
                .with_hint("write it as text, in base64 for instance, as the plugin expects it")
        }),
    }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet(Termios);

impl Quiet {
    fn on_stdin() -> Option<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        // The end of the line is.
        quiet.local_modes.insert(LocalModes::ECHONL);
        // What was typed ahead was shown.
        tcsetattr(&stdin, OptionalActions::Flush, &quiet).ok()?;
        Some(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

fn list_text(list: &Secrets, screen: &Screen) -> String {
    if list.secrets.is_empty() {
        return format!("{} asks for no secrets\n", one_line(&list.id));
    }
    let row = |secret: &SecretStatus| {
        let set = match (secret.set, secret.at_unix_ms) {
            (true, Some(at)) => Cell::from(format!("since {}", stamp(at))),
            (true, None) => "yes".into(),
            (false, _) if secret.optional || secret.version.is_none() => "no".into(),
            (false, _) => Cell::new("no", Tone::Careful),
        };
        let need = match (&secret.version, secret.optional) {
            (None, _) => "no version asks for it",
            (Some(_), true) => "it does without",
            (Some(_), false) => "",
        };
        let decision = secret.decision.as_deref().unwrap_or("-");
        let why = secret.reason.as_deref().unwrap_or(need);
        vec![Cell::new(one_line(&secret.name), Tone::Strong), set, one_line(decision).into(), one_line(why).into()]
    };
    let rows: Vec<_> = list.secrets.iter().map(row).collect();
    screen.wrapping_table(&["SECRET", "SET", "DECISION", "WHY"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_last_line_is_no_part_of_it() {
        let text = |bytes: &[u8]| text_of(Zeroizing::new(bytes.to_vec()), ("it", "key")).map(|text| text.to_string());
        for (bytes, expected) in [
            (b"key".as_slice(), "key"),
            (b"key\n", "key"),
            (b"key\r\n", "key"),
            (b"key\n\n", "key\n"),
            (b" two\nlines \n", " two\nlines "),
        ] {
            assert_eq!(text(bytes).ok().as_deref(), Some(expected));
        }
        assert!(text(&vec![b'x'; BYTES_MAX]).is_ok());
        for (bytes, why) in [
            (Vec::new(), "there is no secret"),
            (b"\n".to_vec(), "there is no secret"),
            (vec![b'x'; BYTES_MAX + 1], "at most 16384 bytes"),
            (b"\xffkey".to_vec(), "text in UTF-8"),
        ] {
            assert!(text(&bytes).unwrap_err().message().contains(why), "{why}");
        }
        let hint = text(b"").unwrap_err().hint().map(ToOwned::to_owned).unwrap_or_default();
        assert!(hint.contains("palisade secret set it key`"), "{hint}");
    }

    #[test]
    fn which_are_set_is_shown() {
        let list: Secrets = serde_json::from_value(json!({
            "id": "a",
            "secrets": [
                {"name": "key", "set": true, "at_unix_ms": 1_795_202_857_123_u64, "by": "uid:0", "version": "1.0.0",
                 "decision": "granted", "optional": false, "reason": "to ask with"},
                {"name": "old", "set": true, "at_unix_ms": 1_795_202_857_123_u64, "by": "uid:0", "optional": false},
                {"name": "spare", "set": false, "version": "1.0.0", "decision": "asked", "optional": true},
            ],
        }))
        .unwrap();
        let shown = list_text(&list, &Screen::plain());
        let lines: Vec<_> = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[0], "SECRET SET DECISION WHY");
        assert!(lines[1].starts_with("key since ") && lines[1].ends_with(" granted to ask with"), "{shown}");
        assert!(lines[2].ends_with(" - no version asks for it"), "{shown}");
        assert_eq!(lines[3], "spare no asked it does without");
        assert_eq!(
            list_text(&Secrets { id: "a".into(), secrets: vec![] }, &Screen::plain()),
            "a asks for no secrets\n"
        );
    }
}
