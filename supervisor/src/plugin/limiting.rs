//! Changes how much a plugin may have while it runs.
//!
//! What is said is kept for later processes until the daemon ends. What the kernel can change in a running process is changed in
//! every process of the plugin; what is looked at holds from the next look on. Descriptors and the size of a file are given to a process
//! when it starts and are refused here, as is less memory than the plugin has at the moment: it would be killed by it.
//!
//! Elsewhere: whose word goes before whose is `model::limits`.

use palisade_protocol::{ErrorBody, ErrorCode};
use serde::Serialize;

use super::handle::Handle;
use crate::model::limits::{Allowance, Limits};
use crate::process::look::{self, Whereabouts};
use crate::sandbox::spec;

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Changed {
    /// All limits, as they are now.
    pub limits: Limits,
    /// What does not hold at once, and for how long any of it does: sentences.
    pub notes: Vec<String>,
}

/// What was said, as the configuration would write it.
#[must_use]
pub fn written(said: &Allowance) -> String {
    let number = |name: &str, value: Option<u64>| value.map(|value| format!("{name} = {value}"));
    let over = said.cpu_over.map(|over| format!("cpu_over = {over:?}").to_lowercase());
    let parts = [
        number("memory_mib", said.memory_mib),
        number("cpu_percent", said.cpu_percent),
        number("pids", said.pids),
        number("disk_mib", said.disk_mib),
        number("log_kib_per_second", said.log_kib_per_second),
        over,
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Changes the limits of one version of a plugin.
///
/// Cancel safe: what was begun is finished.
///
/// # Errors
/// Why nothing was changed.
pub async fn change(handle: &Handle, said: Allowance) -> Result<Changed, ErrorBody> {
    let id = handle.id();
    let wrong = |message: String| ErrorBody::new(ErrorCode::InvalidParams, message);
    said.check().map_err(wrong)?;
    if said == Allowance::default() {
        return Err(wrong("no limit was given".to_owned()));
    }
    for (name, given) in [("open_files", said.open_files), ("file_size_mib", said.file_size_mib)] {
        if given.is_some() {
            let message =
                format!("{name} is given to a process when it starts, and the running daemon does not change it");
            let hint = format!("set `{name}` in [plugins.{id}.limits] of palisade.toml and restart the daemon");
            return Err(wrong(message).with_hint(hint));
        }
    }
    let generations = handle.status().await.generations;
    let names: Vec<_> = generations.iter().map(|seen| handle.blueprint().leaf_name(seen.generation)).collect();
    let handle = handle.clone();
    match crate::blocking::run(move || apply(&handle, &said, &names)).await {
        Ok(changed) => changed,
        Err(error) => Err(ErrorBody::new(ErrorCode::Internal, format!("changing limits: {error}"))),
    }
}

/// Blocks: the kernel makes room before it lowers a limit.
fn apply(handle: &Handle, said: &Allowance, leaves: &[String]) -> Result<Changed, ErrorBody> {
    let (id, blueprint) = (handle.id(), handle.blueprint());
    let host = &blueprint.host;
    let tree = host.cgroups.as_ref().filter(|tree| tree.controlled().is_ok());
    if let Some(mib) = said.memory_mib {
        let used = match tree {
            Some(tree) => leaves.iter().filter_map(|leaf| tree.memory_of(leaf).ok()).max(),
            None => host.sampler.trees_of(blueprint).iter().filter_map(memory_of).max(),
        };
        if let Some(used) = used.filter(|used| mib.saturating_mul(1 << 20) < *used) {
            let message = format!("{id} has {} MiB at the moment, and would be killed with {mib} MiB", used >> 20);
            let hint = format!("`palisade stop {id}` first; what is said then holds for its next start");
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message).with_hint(hint));
        }
    }
    let before = blueprint.say_limits(said);
    let limits = blueprint.limits();
    if said.disk_mib.is_some()
        && let Err(failure) = blueprint.hold_to_disk()
    {
        blueprint.restore_limits(before);
        let message = format!("the disk quota of {id} was not changed: {}", failure.message);
        return Err(ErrorBody::new(ErrorCode::Internal, message));
    }
    if let Some(tree) = tree {
        let wanted = spec::leaf_limits(&limits.decided());
        for leaf in leaves {
            match tree.limit(leaf, &wanted) {
                // It has ended meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    blueprint.restore_limits(before);
                    // What was before was borne by the same folder.
                    let _ = blueprint.hold_to_disk();
                    let was = spec::leaf_limits(&blueprint.limits().decided());
                    for leaf in leaves {
                        let _ = tree.limit(leaf, &was);
                    }
                    let message = format!("the kernel does not change the limits of {id}: {error}");
                    return Err(ErrorBody::new(ErrorCode::Internal, message));
                }
                Ok(()) => {}
            }
        }
    }
    let mut notes = Vec::new();
    if tree.is_none() && !leaves.is_empty() {
        let monitored = "the plugin is looked at by it from now on";
        if said.memory_mib.is_some() {
            notes.push(format!("memory: {monitored}; what a single process may have changes with its next start"));
        }
        if said.pids.is_some() {
            notes.push(format!("pids: {monitored}; what the kernel refuses changes with its next start"));
        }
    }
    notes.push(format!("it holds until the daemon ends; [plugins.{id}.limits] in palisade.toml is lasting"));
    Ok(Changed { limits, notes })
}

/// Has the processes of a plugin that took another one's place have what was said of that one while they started already. Where the kernel does
/// not do that, the log says so, and it holds for later ones.
pub async fn hold(handle: &Handle) {
    let generations = handle.status().await.generations;
    let names: Vec<_> = generations.iter().map(|seen| handle.blueprint().leaf_name(seen.generation)).collect();
    let of = handle.clone();
    let held = crate::blocking::run(move || {
        let (blueprint, mut wrong) = (of.blueprint(), Vec::new());
        wrong.extend(blueprint.hold_to_disk().err().map(|failure| failure.message));
        if let Some(tree) = blueprint.host.cgroups.as_ref().filter(|tree| tree.controlled().is_ok()) {
            let wanted = spec::leaf_limits(&blueprint.limits().decided());
            for leaf in &names {
                match tree.limit(leaf, &wanted) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => wrong.push(error.to_string()),
                    _ => {}
                }
            }
        }
        wrong
    });
    let wrong = held.await.unwrap_or_else(|error| vec![error.to_string()]);
    for error in wrong {
        tracing::error!(plugin = %handle.id(), %error, "what was said of its limits holds for its next process only");
    }
}

fn memory_of(tree: &Whereabouts) -> Option<u64> {
    look::look(tree, &look::processes(tree), 0).memory
}
