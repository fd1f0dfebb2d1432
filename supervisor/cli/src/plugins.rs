//! `list`, `status`, `info`, and the commands that change what a plugin does.

use palisade_client::admin::{
    self, Change, DaemonStatus, Deprecation, Held, Listing, Need, Offer, Origin, PassedOver, PluginInfo, PluginStatus,
    PluginSummary, Probation, Trial,
};
use palisade_client::{CallError, Raw};
use palisade_protocol::{ActionInfo, ErrorCode, GuaranteeState, StreamInfo, StreamKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::arguments::split_target;
use crate::attend::Attendant;
use crate::failure::Failure;
use crate::output::{Output, print};
use crate::screen::{Cell, Label, Screen, Tone, harmless, one_line, short};
use crate::times::{age, since, stamp};
use crate::value::{self, Layout};
use crate::{Context, operate, params};

#[derive(Serialize)]
pub(crate) struct Nothing {}

#[derive(Serialize)]
pub(crate) struct Target<'a> {
    pub(crate) plugin: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) force: bool,
}

/// What an action is asked for by.
#[derive(Serialize)]
pub(crate) struct Describe<'a> {
    pub(crate) plugin: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<&'a str>,
    pub(crate) action: &'a str,
}

#[derive(Deserialize)]
pub(crate) struct Described {
    #[serde(default)]
    pub(crate) actions: Vec<ActionInfo>,
    /// A sentence for whoever uses it all the same.
    #[serde(default)]
    pub(crate) deprecated: Option<String>,
}

pub(crate) fn target(target: &str) -> Target<'_> {
    let (plugin, version) = split_target(target);
    Target { plugin, version, force: false }
}

/// The same for the client's own operations.
pub(crate) fn of(target: &str) -> admin::Target<'_> {
    let (plugin, version) = split_target(target);
    admin::Target { plugin: Some(plugin), version }
}

/// What an operation is asked for by, besides the plugin.
#[derive(Serialize)]
pub(crate) struct With<'a, P> {
    #[serde(flatten)]
    target: Target<'a>,
    #[serde(flatten)]
    more: P,
}

/// Parameters of an operation on a plugin.
pub(crate) fn with<P: Serialize>(plugin: &str, more: P) -> With<'_, P> {
    With { target: target(plugin), more }
}

/// Prints the answer as it came, or as people read it.
pub(crate) fn show(
    context: &Context,
    answer: &Raw,
    text: impl FnOnce(&Raw, &Screen) -> Result<String, Failure>,
) -> Result<(), Failure> {
    if context.json {
        return print(&(value::to_json(answer, Layout::Line)? + "\n"));
    }
    print(&text(answer, &context.screen)?)
}

/// `palisade list`
pub(crate) async fn list(context: &Context) -> Result<(), Failure> {
    let answer = context.operate("list", &Nothing {}).await?;
    show(context, &answer, |answer, screen| {
        let listing: Listing = answer.decode()?;
        for rejected in &listing.rejected {
            let text = format!("{} cannot be used: {}", one_line(&rejected.path), harmless(&rejected.reason));
            let _ = screen.error_line(&screen.labelled(Label::Warning, &text));
        }
        Ok(listing_text(&listing, screen))
    })
}

fn listing_text(listing: &Listing, screen: &Screen) -> String {
    let rows: Vec<_> = listing
        .plugins
        .iter()
        .map(|plugin| {
            vec![
                Cell::new(&plugin.id, Tone::Strong),
                (&plugin.version).into(),
                match plugin.held && plugin.enabled {
                    true => Cell::new("held", Tone::Faint),
                    false => marked(&plugin.state, plugin.enabled, plugin.awaits_consent, plugin.deprecated),
                },
                since(plugin.since_unix_ms).into(),
                plugin.calls_in_flight.to_string().into(),
                plugin.restarts.to_string().into(),
                match (&plugin.lacks, &plugin.passed_over, &plugin.update, why(plugin)) {
                    (Some(lacking), ..) if plugin.enabled => Cell::new(format!("lacks {lacking}"), Tone::Careful),
                    (_, Some(passed), ..) => Cell::new(passed_over(&plugin.id, passed), Tone::Careful),
                    (_, _, Some(newer), _) => {
                        Cell::new(format!("{newer} waits: palisade update --check {}", plugin.id), Tone::Careful)
                    }
                    (_, _, _, Some(why)) => Cell::new(why, Tone::Careful),
                    _ => plugin.description.as_ref().unwrap_or(&plugin.name).into(),
                },
            ]
        })
        .collect();
    screen.fitting_table(&["PLUGIN", "VERSION", "STATE", "SINCE", "BUSY", "RESTARTS", "DESCRIPTION"], &rows)
}

/// Why it takes no calls, where it has failed or waits.
fn why(plugin: &PluginSummary) -> Option<&String> {
    plugin.reason.as_ref().filter(|_| plugin.enabled && (plugin.held || plugin.state == "failed"))
}

/// A package as people tell it from others.
fn package(version: &str, digest: &str) -> String {
    format!("{} {}", one_line(version), one_line(digest.get(..12).unwrap_or(digest)))
}

/// That a package is not used, and why, after what to do about it.
fn passed_over(id: &str, passed: &PassedOver) -> String {
    if let Some(version) = &passed.version {
        return format!("{version} beside it is not used (palisade status {id}@{version}): {}", passed.reason);
    }
    let what = match passed.digest.get(..12) {
        Some(short) => format!("{short} in its folder is not used"),
        None => "no package in its folder".to_owned(),
    };
    format!("{what} (palisade reload {id}): {}", passed.reason)
}

/// A state, or that it takes no calls; and that it is better not used.
pub(crate) fn marked(state: &str, enabled: bool, awaits_consent: bool, deprecated: bool) -> Cell {
    let (state, tone) = match (enabled, awaits_consent) {
        (false, _) => ("disabled", Tone::Faint),
        (true, true) => ("awaits consent", Tone::Careful),
        (true, false) => (state, if deprecated { Tone::Careful } else { Tone::of_state(state) }),
    };
    if deprecated { Cell::new(format!("{state}, deprecated"), tone) } else { Cell::new(state, tone) }
}

/// `1 call`, `2 calls`.
fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Fields one below the other, the names to the right.
struct Fields<'a> {
    screen: &'a Screen,
    text: String,
}

impl Fields<'_> {
    const NAME_WIDTH: usize = 14;

    fn add(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        let pad = " ".repeat(Self::NAME_WIDTH.saturating_sub(name.len()));
        self.text.push_str(&format!("{pad}{}  {value}\n", self.screen.tone(name, Tone::Faint)));
    }

    /// Adds a sentence or more, continued beneath itself.
    fn prose(&mut self, name: &str, value: &str) {
        let mut lines = self.screen.lines(value, Self::NAME_WIDTH + 2).into_iter();
        self.add(name, &lines.next().unwrap_or_default());
        lines.for_each(|line| self.more(&line));
    }

    fn more(&mut self, value: &str) {
        self.text.push_str(&format!("{}  {value}\n", " ".repeat(Self::NAME_WIDTH)));
    }
}

/// `palisade status`
pub(crate) async fn daemon_status(context: &Context) -> Result<(), Failure> {
    let answer = context.operate("status", &Nothing {}).await?;
    show(context, &answer, |answer, screen| Ok(daemon_text(&answer.decode()?, screen)))
}

fn daemon_text(daemon: &DaemonStatus, screen: &Screen) -> String {
    let mut fields = Fields { screen, text: String::new() };
    fields.add("palisaded", &format!("{} (pid {})", one_line(&daemon.version), daemon.pid));
    let uptime = age(std::time::Duration::from_millis(daemon.uptime_ms));
    fields.add("running", &format!("{uptime}, since {}", stamp(daemon.started_unix_ms)));
    fields.add("socket", &one_line(daemon.socket.as_deref().unwrap_or_default()));
    fields.add("state", &one_line(daemon.state_directory.as_deref().unwrap_or_default()));
    let plugins: Vec<_> = daemon
        .plugins
        .iter()
        .map(|(state, count)| screen.tone(&format!("{count} {}", one_line(state)), Tone::of_state(state)))
        .collect();
    fields.add("plugins", if plugins.is_empty() { "none".into() } else { plugins.join(", ") }.as_str());
    if daemon.rejected > 0 {
        let what = format!("{} cannot be used; `palisade list` says why", counted(daemon.rejected, "package"));
        fields.add("rejected", &screen.tone(&what, Tone::Careful));
    }
    fields.text
}

/// `palisade status PLUGIN`
pub(crate) async fn status(context: &Context, plugin: &str) -> Result<(), Failure> {
    let answer = context.operate("status", &target(plugin)).await?;
    show(context, &answer, |answer, screen| Ok(status_text(&answer.decode()?, screen)))
}

fn status_text(status: &PluginStatus, screen: &Screen) -> String {
    let mut fields = Fields { screen, text: String::new() };
    fields.text = format!(
        "{} {} {}\n",
        screen.tone("●", Tone::of_state(&status.state)),
        screen.tone(&one_line(&status.id), Tone::Strong),
        one_line(&status.version),
    );
    if status.name != status.id {
        fields.add("name", &one_line(&status.name));
    }
    let mut state = screen.tone(&one_line(&status.state), Tone::of_state(&status.state));
    if status.since_unix_ms > 0 {
        state += &format!(" for {}, since {}", since(status.since_unix_ms), stamp(status.since_unix_ms));
    }
    fields.add("state", &state);
    if !status.enabled {
        let id = one_line(&status.id);
        fields.add("disabled", &format!("it takes no calls; `palisade enable {id}@{}`", one_line(&status.version)));
    }
    if status.enabled && status.awaits_consent {
        let target = format!("{}@{}", one_line(&status.id), one_line(&status.version));
        let text = format!("it takes no calls; `palisade grant {target}` shows what it asks for, and asks you");
        fields.prose("awaits consent", &screen.tone(&text, Tone::Careful));
    }
    if let Some(Held { reason, .. }) = &status.held {
        let text = format!("it takes no calls: {}", one_line(reason));
        fields.prose("held", &screen.tone(&text, Tone::Careful));
    }
    if let Some(Offer { version, kind }) = &status.update {
        let major = if kind == "major" { "--major " } else { "" };
        let text = format!(
            "{}, a {} version, waits; `palisade update {major}{}` takes it",
            one_line(version),
            one_line(kind),
            one_line(&status.id)
        );
        fields.prose("update", &screen.tone(&text, Tone::Careful));
    }
    if let Some(Deprecation { at_unix_ms, by, reason }) = &status.deprecated {
        let why = reason.as_deref().map(|reason| format!(": {}", one_line(reason))).unwrap_or_default();
        let text = format!("since {}, by {}{why}", stamp(*at_unix_ms), one_line(by));
        fields.prose("deprecated", &screen.tone(&text, Tone::Careful));
    }
    if let Some(why) = &status.misconfigured {
        fields.prose("config", &screen.tone(&one_line(why), Tone::Careful));
    }
    if let Some(PassedOver { digest, version, reason, at_unix_ms }) = &status.passed_over {
        let (id, since, reason) = (one_line(&status.id), stamp(*at_unix_ms), one_line(reason));
        let text = match (version, digest.get(..12)) {
            (Some(version), _) => {
                let what = package(version, digest);
                let version = one_line(version);
                format!(
                    "{what} beside it is not used since {since}: {reason}; `palisade status {id}@{version}` says more"
                )
            }
            (None, None) => format!(
                "its folder has none that can be used since {since}: {reason}; `palisade reload {id}` tries it again"
            ),
            (None, Some(short)) => format!(
                "its folder has {}, which is not used since {since}: {reason}; `palisade reload {id}` tries it again",
                one_line(short)
            ),
        };
        fields.prose("package", &screen.tone(&text, Tone::Careful));
    }
    if let Some(Trial { version, digest, since_unix_ms }) = &status.trial {
        let what = package(version, digest);
        let text = format!("a new package ({what}) is being tried since {}", stamp(*since_unix_ms));
        fields.prose("trial", &screen.tone(&text, Tone::Careful));
    }
    if let Some(Probation { until_unix_ms, version, digest, state }) = &status.probation {
        let what = package(version, digest);
        let kept = state.as_deref().map(|state| format!(", with the state in {}", one_line(state))).unwrap_or_default();
        fields.prose("probation", &format!("until {}; the package before is {what}{kept}", stamp(*until_unix_ms)));
    }
    if let Some(aside) = &status.state_aside {
        let (aside, id) = (one_line(aside), one_line(&status.id));
        let text = format!("what it kept once is in {aside}; `palisade backups {id}` lists all such copies");
        fields.prose("put aside", &text);
    }
    if let Some(lacking) = &status.lacks {
        fields.prose("lacks", &screen.tone(&one_line(lacking), Tone::Careful));
    }
    fields.prose("reason", &one_line(status.reason.as_deref().unwrap_or_default()));
    for shortfall in &status.degraded {
        fields.prose("degraded", &screen.tone(&one_line(shortfall), Tone::Careful));
    }
    if let Some(trouble) = &status.state_trouble {
        fields.prose("state", &screen.tone(&one_line(trouble), Tone::Careful));
    }
    if !status.secrets_not_set.is_empty() {
        let names: Vec<_> = status.secrets_not_set.iter().map(|name| one_line(name)).collect();
        let text = format!(
            "not set: {}; `palisade secret set {} {}` sets it, from stdin",
            names.join(", "),
            one_line(&status.id),
            names[0]
        );
        fields.prose("secrets", &screen.tone(&text, Tone::Careful));
    }
    if !status.not_enforced.is_empty() {
        fields.prose("sandbox", &not_enforced(status, screen));
    }
    if status.quarantined {
        fields.add("quarantine", &format!("restarted too often; `palisade reset {}` lifts it", one_line(&status.id)));
    }
    if let Some(in_ms) = status.restart_in_ms {
        let when = if in_ms < 1000 { format!("{in_ms} ms") } else { age(std::time::Duration::from_millis(in_ms)) };
        fields.add("restart", &format!("in {when}"));
    }
    for one in &status.generations {
        let mut text = format!("generation {}, {} {}", one.generation, one_line(&one.role), one_line(&one.phase));
        if let Some(pid) = one.process_id {
            text += &format!(", pid {pid}");
        }
        if let Some(oldest) = one.oldest_call_ms.filter(|oldest| *oldest > 0) {
            text += &format!(", oldest call {}", age(std::time::Duration::from_millis(oldest)));
        }
        fields.add("process", &text);
    }
    let calls = &status.calls;
    let outcomes = [
        (u64::from(calls.in_flight), "in flight"),
        (u64::from(calls.waiting), "waiting"),
        (calls.ok, "ok"),
        (calls.errors, "failed"),
        (calls.timed_out, "timed out"),
        (calls.cancelled, "cancelled"),
        (calls.crashed, "crashed"),
        (calls.refused, "refused"),
    ];
    let told: Vec<_> =
        outcomes.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    fields.add("calls", if told.is_empty() { "none yet".into() } else { told.join(", ") }.as_str());
    if status.restarts > 0 {
        fields.add("restarts", &status.restarts.to_string());
    }
    if let Some(failure) = &status.last_failure {
        let calls = match failure.calls_in_flight {
            0 => String::new(),
            calls => format!(", with {} in flight", counted(u64::from(calls), "call")),
        };
        let text = format!("{}{calls}", one_line(&failure.reason));
        fields.add("last failure", &screen.tone(&text, Tone::Bad));
        let ago = since(failure.at_unix_ms);
        let ago = if ago.is_empty() { ago } else { format!(", {ago} ago") };
        fields.more(&format!("generation {}{ago}", failure.generation));
        for line in &failure.last_stderr {
            fields.more(&screen.tone(&format!("│ {}", one_line(line)), Tone::Faint));
        }
    }
    fields.text
}

/// `palisade info PLUGIN`
pub(crate) async fn info(context: &Context, plugin: &str) -> Result<(), Failure> {
    let answer = context.operate("info", &target(plugin)).await?;
    show(context, &answer, |answer, screen| Ok(info_text(&answer.decode()?, screen)))
}

/// `palisade info --sandbox PLUGIN`
pub(crate) async fn sandbox(context: &Context, plugin: &str) -> Result<(), Failure> {
    let answer = context.operate("info", &target(plugin)).await?;
    show(context, &answer, |answer, screen| Ok(guarantees_text(&answer.decode()?, screen)))
}

/// `palisade info --denied PLUGIN`
pub(crate) async fn denied(context: &Context, plugin: &str) -> Result<(), Failure> {
    let answer = context.operate("info", &target(plugin)).await?;
    show(context, &answer, |answer, screen| Ok(denied_text(&answer.decode()?, screen)))
}

fn denied_text(info: &PluginInfo, screen: &Screen) -> String {
    let id = one_line(&info.status.id);
    match &info.denied {
        None => format!("what {id} is refused is not written down; set trace_denials = true in [plugins.{id}]\n"),
        Some(denied) if denied.is_empty() => format!("{id} was refused nothing\n"),
        Some(denied) => {
            let rows: Vec<_> = denied
                .iter()
                .map(|one| {
                    let arguments: Vec<_> = one.arguments.iter().map(|argument| format!("{argument:#x}")).collect();
                    vec![
                        Cell::new(&one.call, Tone::Strong),
                        one.count.to_string().into(),
                        (&one.errno).into(),
                        one.permission.as_deref().unwrap_or("none").into(),
                        arguments.join(" ").into(),
                    ]
                })
                .collect();
            screen.wrapping_table(&["CALL", "COUNT", "ERRNO", "ALLOWED BY", "FIRST ARGUMENTS"], &rows)
        }
    }
}

/// How much it may have, in a line.
fn limits(limits: Option<&Value>) -> String {
    let of = |name: &str| limits?.get("resources")?.get(name)?.get("value")?.as_u64();
    let said = |limit: &Value| limit.get("by").and_then(Value::as_str) == Some("operator");
    let resources = limits.and_then(|limits| limits.get("resources")?.as_object());
    let said = resources.is_some_and(|resources| resources.values().any(said));
    let parts = [
        of("memory_mib").map(|mib| format!("{mib} MiB of memory")),
        of("cpu_percent").map(|percent| format!("{percent} % of a processor")),
        of("pids").map(|pids| format!("{pids} processes and threads")),
        of("open_files").map(|files| format!("{files} open files")),
        of("file_size_mib").map(|mib| format!("{mib} MiB in a file")),
        of("disk_mib").map(|mib| format!("{mib} MiB of files")),
        of("log_kib_per_second").map(|kib| format!("{kib} KiB of output a second")),
        said.then(|| "changed until the daemon ends".to_owned()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn info_text(info: &PluginInfo, screen: &Screen) -> String {
    let mut fields = Fields { screen, text: status_text(&info.status, screen) };
    fields.prose("description", &one_line(info.description.as_deref().unwrap_or_default()));
    fields.add("kind", &one_line(&info.kind));
    fields.prose("capabilities", &one_line(&info.capabilities.join(", ")));
    fields.prose("tags", &one_line(&info.tags.join(", ")));
    fields.add("author", &one_line(info.author.as_deref().unwrap_or_default()));
    fields.add("license", &one_line(info.license.as_deref().unwrap_or_default()));
    fields.add("homepage", &one_line(info.homepage.as_deref().unwrap_or_default()));
    for need in &info.dependencies {
        fields.prose("depends on", &depends_on(need, screen));
    }
    fields.prose("needed by", &one_line(&info.dependants.join(", ")));
    if let Some(Origin { source, at_unix_ms, by }) = &info.installed {
        let text = format!("{}, by {}, from {}", stamp(*at_unix_ms), one_line(by), one_line(source));
        fields.prose("installed", &text);
    }
    fields.add("source", &one_line(&info.source));
    fields.add("entry point", &one_line(&info.entry_point));
    if let Some(runtime) = &info.runtime {
        let of = |name: &str| one_line(runtime.get(name).and_then(Value::as_str).unwrap_or_default());
        fields.add("runtime", &format!("{}: {} ({})", of("name"), of("exec"), of("sha256")));
    }
    let snapshot = match &info.snapshot {
        Some(Value::String(digest)) => digest,
        Some(snapshot) => snapshot.get("digest").and_then(Value::as_str).unwrap_or_default(),
        None => "",
    };
    fields.add("snapshot", &one_line(snapshot));
    fields.add("limits", &one_line(&limits(info.limits.as_ref())));
    fields.prose("permissions", &one_line(&info.permissions.join(", ")));
    for warning in &info.warnings {
        fields.add("warning", &screen.tone(&one_line(warning), Tone::Careful));
    }
    if info.actions.is_empty() {
        let id = one_line(&info.status.id);
        let unknown = format!("not known until it has run; `palisade start {id}` starts it");
        fields.add("actions", if info.status.is_active() { "none" } else { &unknown });
    }
    let mut text = fields.text;
    if !info.actions.is_empty() {
        let rows: Vec<_> = info
            .actions
            .iter()
            .map(|action| {
                vec![
                    Cell::new(&action.name, Tone::Strong),
                    parameters(action.parameters.as_ref()).into(),
                    traits(action).into(),
                    flowing(&action.description).into(),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&screen.wrapping_table(&["ACTION", "PARAMETERS", "TRAITS", "DESCRIPTION"], &rows));
    }
    let guarantees = guarantees_text(info, screen);
    if !guarantees.is_empty() {
        text.push('\n');
        text.push_str(&guarantees);
    }
    text
}

/// A plugin that another depends on, and whether it is there.
fn depends_on(need: &Need, screen: &Screen) -> String {
    let what = format!("{} {}", one_line(&need.id), one_line(&need.version));
    let met = match &need.met_by {
        Some(version) => format!("{} is there", one_line(version)),
        None if need.optional => "missing, and optional".to_owned(),
        None => screen.tone("missing", Tone::Bad),
    };
    let why = need.reason.as_deref().map(|reason| format!(": {}", one_line(reason))).unwrap_or_default();
    format!("{what} ({met}){why}")
}

/// Which controls are not enforced, by how far they hold; the reasons are long, and `info` has them.
fn not_enforced(status: &PluginStatus, screen: &Screen) -> String {
    let states = [
        (GuaranteeState::Monitored, "monitored", Tone::Plain),
        (GuaranteeState::Degraded, "degraded", Tone::Careful),
        (GuaranteeState::Absent, "absent", Tone::Bad),
    ];
    let told = states.into_iter().filter_map(|(state, word, tone)| {
        let of = status.not_enforced.iter().filter(|one| one.state == state);
        let names: Vec<_> = of.map(|one| one_line(&one.control)).collect();
        (!names.is_empty()).then(|| screen.tone(&format!("{word}: {}", names.join(", ")), tone))
    });
    let told: Vec<_> = told.collect();
    format!("not enforced here, {}; `palisade info --sandbox {}` says why", told.join("; "), one_line(&status.id))
}

/// What confines it, as a table.
fn guarantees_text(info: &PluginInfo, screen: &Screen) -> String {
    let mut text = String::new();
    if !info.guarantees.is_empty() {
        let rows: Vec<_> = info
            .guarantees
            .iter()
            .map(|guarantee| {
                let (state, tone) = match guarantee.state {
                    GuaranteeState::Enforced => ("enforced", Tone::Good),
                    GuaranteeState::Degraded => ("degraded", Tone::Careful),
                    GuaranteeState::Monitored => ("monitored", Tone::Careful),
                    GuaranteeState::Absent => ("absent", Tone::Bad),
                };
                vec![(&guarantee.control).into(), Cell::new(state, tone), (&guarantee.evidence).into()]
            })
            .collect();
        text.push_str(&screen.wrapping_table(&["GUARANTEE", "STATE", "EVIDENCE"], &rows));
    }
    text
}

/// Text whose line ends mean no more than blanks, as in a comment.
fn flowing(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn traits(action: &ActionInfo) -> String {
    let mut traits = Vec::new();
    traits.extend(action.idempotent.then_some("idempotent"));
    traits.extend(action.endless.then_some("endless"));
    let stream = |stream: &StreamInfo, items, bytes| match stream.kind {
        StreamKind::Items => items,
        StreamKind::Bytes => bytes,
    };
    traits.extend(action.input.as_ref().map(|input| stream(input, "reads items", "reads bytes")));
    traits.extend(action.output.as_ref().map(|output| stream(output, "streams items", "streams bytes")));
    traits.join(", ")
}

/// `palisade info PLUGIN ACTION`
pub(crate) async fn action_info(context: &Context, plugin: &str, action: &str) -> Result<(), Failure> {
    let (plugin, version) = split_target(plugin);
    let answer = context.operate("describe", &Describe { plugin, version, action }).await?;
    show(context, &answer, |answer, screen| {
        let Described { actions, .. } = answer.decode()?;
        let found = actions.iter().find(|found| found.name == action);
        let unknown = || Failure::code(ErrorCode::ActionNotFound, format!("`{plugin}` has no action `{action}`"));
        Ok(action_text(plugin, found.ok_or_else(unknown)?, screen))
    })
}

fn action_text(plugin: &str, action: &ActionInfo, screen: &Screen) -> String {
    let title = format!("{} {}", one_line(plugin), one_line(&action.name));
    let mut fields = Fields { screen, text: format!("{}\n", screen.tone(&title, Tone::Strong)) };
    fields.prose("description", &one_line(&flowing(&action.description)));
    fields.add("traits", &traits(action));
    if let Some(timeout) = action.timeout_ms {
        let timeout = std::time::Duration::from_millis(timeout);
        fields.add("timeout", &humantime::format_duration(timeout).to_string());
    }
    let parameters = action.parameters.as_ref().map(params::parameters).unwrap_or_default();
    let takes_none = |schema: &Value| schema.get("maxProperties").and_then(Value::as_u64) == Some(0);
    match &action.parameters {
        None | Some(Value::Bool(true)) => fields.add("parameters", "anything; the plugin does not say"),
        Some(schema) if parameters.is_empty() && takes_none(schema) => fields.add("parameters", "none"),
        Some(_) => {}
    }
    let mut text = fields.text;
    let rows: Vec<_> = parameters
        .iter()
        .map(|parameter| {
            vec![
                Cell::new(&parameter.name, Tone::Strong),
                (&parameter.kind).into(),
                if parameter.is_required { "yes" } else { "no" }.into(),
                parameter.default.as_ref().map(ToString::to_string).unwrap_or_default().into(),
                flowing(parameter.description.as_deref().unwrap_or_default()).into(),
            ]
        })
        .collect();
    let schemas = [
        (
            "PARAMETERS",
            action.parameters.as_ref().filter(|schema| rows.is_empty() && schema.is_object() && !takes_none(schema)),
        ),
        ("READS, EACH", action.input.as_ref().and_then(|input| input.item.as_ref())),
        ("STREAMS, EACH", action.output.as_ref().and_then(|output| output.item.as_ref())),
        ("RESULT", action.result.as_ref()),
    ];
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&screen.wrapping_table(&["PARAMETER", "TYPE", "REQUIRED", "DEFAULT", "DESCRIPTION"], &rows));
    }
    for (what, schema) in schemas {
        if let Some(schema) = schema {
            // It is the plugin's text, and may have in its strings what drives a terminal.
            let schema = harmless(&format!("{schema:#}"));
            text.push_str(&format!("\n{}\n{schema}\n", screen.tone(what, Tone::Strong)));
        }
    }
    text
}

/// The names of the parameters, those that may be left out in brackets.
fn parameters(schema: Option<&Value>) -> String {
    let Some(schema) = schema else { return String::new() };
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return String::new() };
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let (mut names, optional): (Vec<&str>, Vec<&str>) =
        properties.keys().map(String::as_str).partition(|name| required.contains(name));
    let optional: Vec<_> = optional.iter().map(|name| format!("[{name}]")).collect();
    names.extend(optional.iter().map(String::as_str));
    names.join(" ")
}

/// `palisade start`, `stop` and their like: all plugins at once, silent where it worked.
pub(crate) async fn change(context: &Context, change: Change, plugins: Vec<String>) -> Result<(), Failure> {
    let operation = change.operation();
    let several = plugins.len() > 1;
    let mut tasks = Vec::new();
    for plugin in plugins {
        let client = context.client.clone();
        let task = tokio::spawn({
            let plugin = plugin.clone();
            async move {
                let target = Target { force: change == Change::ForceStop, ..target(&plugin) };
                operate(&client, operation, &target, None).await
            }
        });
        tasks.push((plugin, task));
    }
    let names: Vec<_> = tasks.iter().map(|(plugin, _)| short(plugin)).collect();
    let mut attendant =
        Attendant::new(&context.screen, &context.interrupts, format!("{operation} {}", names.join(" ")));
    let mut output = Output::new();
    let mut first: Option<Failure> = None;
    for (plugin, task) in tasks {
        let outcome = match attendant.wait(task, || Ok(())).await? {
            Ok(outcome) => outcome.map_err(|error: CallError| Failure::from(error)),
            Err(error) => Err(Failure::code(ErrorCode::Internal, error.to_string())),
        };
        attendant.hide();
        match outcome {
            Ok(status) if context.json => output.line(&value::to_json(&status, Layout::Line)?)?,
            Ok(status) if change == Change::Disable => {
                context.warn(operation, &status);
                let status: PluginStatus = status.decode()?;
                for broken in &status.broken {
                    let what = format!("{} is without {} now", one_line(broken), one_line(&status.id));
                    output.line(&context.screen.tone(&what, Tone::Careful))?;
                }
            }
            Ok(status) => context.warn(operation, &status),
            Err(failure) => {
                // Each is told when it is known; the first decides the exit status.
                let failure = if several { failure.about(&plugin) } else { failure };
                failure.print(&context.screen, context.json);
                first.get_or_insert(Failure::silent(failure.status));
            }
        }
    }
    output.flush()?;
    first.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use palisade_client::admin::{CallCounters, Dossier, GenerationStatus, NotEnforced, PluginSummary};
    use palisade_protocol::Guarantee;
    use serde_json::json;

    use super::*;

    fn failed() -> PluginStatus {
        PluginStatus {
            id: "echo".into(),
            version: "1.2.3".into(),
            name: "Echo".into(),
            state: "failed".into(),
            enabled: true,
            reason: Some("killed by SIGSEGV".into()),
            generations: vec![GenerationStatus {
                generation: 4,
                role: "retired".into(),
                phase: "draining".into(),
                process_id: Some(77),
                oldest_call_ms: Some(61_000),
                ..GenerationStatus::default()
            }],
            restarts: 2,
            restart_in_ms: Some(400),
            quarantined: true,
            not_enforced: [
                ("memory", GuaranteeState::Monitored),
                ("landlock", GuaranteeState::Absent),
                ("cpu", GuaranteeState::Monitored),
            ]
            .map(|(control, state)| NotEnforced { control: control.into(), state, reason: "none".into() })
            .into(),
            last_failure: Some(Dossier {
                generation: 3,
                reason: "killed by SIGSEGV\x1b[2J".into(),
                last_stderr: vec!["oops".into(), "\x07bell".into()],
                calls_in_flight: 1,
                ..Dossier::default()
            }),
            calls: CallCounters { ok: 7, crashed: 1, ..CallCounters::default() },
            ..PluginStatus::default()
        }
    }

    /// What is said of a package names where it lies: beside what serves, or in its folder.
    #[test]
    fn a_package_that_is_not_used_is_said_to_be_where_it_lies() {
        let told = |passed: PassedOver| {
            let status = PluginStatus { passed_over: Some(passed.clone()), ..failed() };
            let text = status_text(&status, &Screen::plain());
            let line = text.lines().find(|line| line.contains("package")).expect("it is said").trim().to_owned();
            (line, passed_over("echo", &passed))
        };
        let passed = PassedOver {
            digest: "0123456789abcdef".into(),
            version: Some("2.0.0".into()),
            reason: "it crashed".into(),
            at_unix_ms: 1_795_202_857_123,
        };
        let since = stamp(passed.at_unix_ms);
        assert_eq!(
            told(passed.clone()),
            (
                format!(
                    "package  2.0.0 0123456789ab beside it is not used since {since}: it crashed; `palisade status echo@2.0.0` says more"
                ),
                "2.0.0 beside it is not used (palisade status echo@2.0.0): it crashed".to_owned()
            )
        );
        let again = "it crashed; `palisade reload echo` tries it again";
        let here = PassedOver { version: None, ..passed };
        assert_eq!(
            told(here.clone()),
            (
                format!("package  its folder has 0123456789ab, which is not used since {since}: {again}"),
                "0123456789ab in its folder is not used (palisade reload echo): it crashed".to_owned()
            )
        );
        assert_eq!(
            told(PassedOver { digest: String::new(), ..here }).0,
            format!("package  its folder has none that can be used since {since}: {again}")
        );
    }

    #[test]
    fn a_status_is_readable_without_colours() {
        insta::assert_snapshot!(status_text(&failed(), &Screen::plain()), @r"
        ● echo 1.2.3
                  name  Echo
                 state  failed
                reason  killed by SIGSEGV
               sandbox  not enforced here, monitored: memory, cpu; absent: landlock; `palisade info --sandbox echo` says why
            quarantine  restarted too often; `palisade reset echo` lifts it
               restart  in 400 ms
               process  generation 4, retired draining, pid 77, oldest call 1 min
                 calls  7 ok, 1 crashed
              restarts  2
          last failure  killed by SIGSEGV\u{1b}[2J, with 1 call in flight
                        generation 3
                        │ oops
                        │ \u{7}bell
        ");
    }

    #[test]
    fn info_has_actions_and_guarantees() {
        let action = ActionInfo {
            name: "count".into(),
            description: "Counts.".into(),
            parameters: Some(json!({"properties": {"to": {}, "from": {}}, "required": ["to"]})),
            output: Some(StreamInfo { kind: StreamKind::Items, item: None }),
            idempotent: true,
            ..ActionInfo::default()
        };
        let guarantee = Guarantee {
            control: "pid_namespace".into(),
            state: GuaranteeState::Enforced,
            evidence: "launcher".into(),
            ..Guarantee::default()
        };
        let info = PluginInfo {
            status: PluginStatus {
                id: "echo".into(),
                version: "1.0.0".into(),
                state: "active".into(),
                enabled: true,
                ..PluginStatus::default()
            },
            source: "/plugins/echo".into(),
            entry_point: "echo".into(),
            snapshot: Some(json!({"digest": "sha256:00"})),
            limits: Some(json!({"resources": {"memory_mib": {"value": 512}, "pids": {"value": 64}}})),
            actions: vec![action],
            guarantees: vec![guarantee],
            warnings: vec!["unknown key `x`".into()],
            ..PluginInfo::default()
        };
        insta::assert_snapshot!(info_text(&info, &Screen::plain()), @r"
        ● echo 1.0.0
                 state  active
                 calls  none yet
                source  /plugins/echo
           entry point  echo
              snapshot  sha256:00
                limits  512 MiB of memory, 64 processes and threads
               warning  unknown key `x`

        ACTION  PARAMETERS  TRAITS                     DESCRIPTION
        count   to [from]   idempotent, streams items  Counts.

        GUARANTEE      STATE     EVIDENCE
        pid_namespace  enforced  launcher
        ");
    }

    #[test]
    fn the_actions_of_a_plugin_that_never_ran_are_not_known() {
        let mut info = PluginInfo::default();
        (info.status.id, info.status.state) = ("echo".into(), "discovered".into());
        assert!(
            info_text(&info, &Screen::plain()).contains("actions  not known until it has run; `palisade start echo`")
        );
        info.status.state = "active".into();
        assert!(info_text(&info, &Screen::plain()).contains("actions  none\n"));
    }

    #[test]
    fn an_action_is_shown_with_all_that_is_known_of_it() {
        let action = ActionInfo {
            name: "count".into(),
            description: "Counts.".into(),
            parameters: Some(json!({
                "type": "object",
                "properties": {
                    "to": {"type": "integer", "minimum": 1, "maximum": 9, "description": "How\n  far."},
                    "step": {"type": ["integer", "null"], "minimum": 1, "default": 1},
                    "names": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 3},
                    "level": {"$ref": "#/$defs/Level"},
                    "any": true,
                },
                "required": ["to"],
                "$defs": {"Level": {"enum": ["low", "high"]}},
            })),
            result: Some(json!({"type": "string", "title": "\u{9b}2J"})),
            timeout_ms: Some(2500),
            idempotent: true,
            ..ActionInfo::default()
        };
        insta::assert_snapshot!(action_text("echo", &action, &Screen::plain()), @r#"
        echo count
           description  Counts.
                traits  idempotent
               timeout  2s 500ms

        PARAMETER  TYPE                                                      REQUIRED  DEFAULT  DESCRIPTION
        to         integer, 1 to 9                                           yes                How far.
        any        anything                                                  no
        level      one of low, high                                          no
        names      array of (string, at most 8 characters), at most 3 items  no
        step       integer or null, at least 1                               no        1

        RESULT
        {
          "title": "\u{9b}2J",
          "type": "string"
        }
        "#);
        let narrow = Screen { width: Some(30), ..Screen::plain() };
        let told = ActionInfo { description: "Counts, and does\nso slowly.".into(), ..ActionInfo::default() };
        assert!(
            action_text("echo", &told, &narrow)
                .contains("description  Counts, and\n                does so\n                slowly.\n")
        );
        let action = ActionInfo { name: "stop".into(), ..ActionInfo::default() };
        insta::assert_snapshot!(action_text("echo", &action, &Screen::plain()), @r"
        echo stop
            parameters  anything; the plugin does not say
        ");
        let none = json!({"type": ["null", "object"], "maxProperties": 0});
        let action = ActionInfo { parameters: Some(none), ..action };
        assert!(action_text("echo", &action, &Screen::plain()).contains("parameters  none\n"));
        let action = ActionInfo { parameters: Some(json!({"type": "string"})), ..action };
        assert!(action_text("echo", &action, &Screen::plain()).contains("PARAMETERS\n{\n"));
    }

    #[test]
    fn a_listing_is_a_table() {
        let listing = Listing {
            plugins: vec![
                PluginSummary {
                    id: "echo".into(),
                    version: "1.0.0".into(),
                    state: "active".into(),
                    enabled: true,
                    description: Some("Echoes.".into()),
                    ..PluginSummary::default()
                },
                PluginSummary {
                    id: "calculator".into(),
                    version: "0.1.0".into(),
                    state: "discovered".into(),
                    enabled: true,
                    name: "Calculator".into(),
                    reason: Some("stopped after being idle".into()),
                    restarts: 12,
                    ..PluginSummary::default()
                },
                PluginSummary {
                    id: "guest".into(),
                    version: "2.0.0".into(),
                    state: "discovered".into(),
                    enabled: true,
                    awaits_consent: true,
                    deprecated: true,
                    lacks: Some("other ^1, which is not there".into()),
                    ..PluginSummary::default()
                },
                PluginSummary {
                    id: "weather".into(),
                    version: "1.0.0".into(),
                    state: "active".into(),
                    enabled: true,
                    update: Some("1.1.0".into()),
                    ..PluginSummary::default()
                },
                PluginSummary {
                    id: "weather".into(),
                    version: "1.1.0".into(),
                    state: "discovered".into(),
                    name: "Weather".into(),
                    enabled: true,
                    held: true,
                    reason: Some("updates wait".into()),
                    ..PluginSummary::default()
                },
            ],
            rejected: vec![],
        };
        insta::assert_snapshot!(listing_text(&listing, &Screen::plain()), @r"
        PLUGIN      VERSION  STATE                       SINCE  BUSY  RESTARTS  DESCRIPTION
        echo        1.0.0    active                             0     0         Echoes.
        calculator  0.1.0    discovered                         0     12        Calculator
        guest       2.0.0    awaits consent, deprecated         0     0         lacks other ^1, which is not there
        weather     1.0.0    active                             0     0         1.1.0 waits: palisade update --check weather
        weather     1.1.0    held                               0     0         updates wait
        ");
    }

    #[test]
    fn the_daemon_is_a_few_lines() {
        let daemon = DaemonStatus {
            version: "0.1.0".into(),
            pid: 5,
            started_unix_ms: 1_795_202_857_123,
            uptime_ms: 200_000,
            socket: Some("/run/palisade/palisade.sock".into()),
            plugins: [("active".to_owned(), 2), ("failed".to_owned(), 1)].into(),
            rejected: 1,
            ..DaemonStatus::default()
        };
        insta::assert_snapshot!(daemon_text(&daemon, &Screen::plain()), @r"
             palisaded  0.1.0 (pid 5)
               running  3 min, since 2026-11-20T19:27:37.123Z
                socket  /run/palisade/palisade.sock
               plugins  2 active, 1 failed
              rejected  1 package cannot be used; `palisade list` says why
        ");
    }
}
