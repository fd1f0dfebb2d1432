//! What is measured: a daemon with the benchmark's plugin under one or more names.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use palisade_protocol::SUPERVISOR_ID;
use palisade_tests::command::{bin_dir, built};
use palisade_tests::daemon::{Daemon, DaemonOptions};
use palisade_tests::package::{Entry, Package};
use palisade_tests::wire::Agent;
use serde_json::json;

use crate::agent::Line;
use crate::floor::plugin_name;

/// A configuration in which each start is made from its beginning.
const NOTHING_PREPARED: &str = "prepared_launchers = 0\n";

/// The plugin that stands for any plugin: built with the SDK, named by its environment.
pub(crate) fn plugin_binary() -> PathBuf {
    built("palisade-bench-plugin")
}

/// The same, linked statically: a dynamic one spends most of its start on looking for libraries.
pub(crate) fn static_plugin_binary() -> PathBuf {
    let path = bin_dir().join("palisade-bench-plugin-static");
    if path.is_file() {
        return path;
    }
    eprintln!("NOT SHOWN HERE: starts of a static plugin; `make bench` builds it");
    plugin_binary()
}

/// A daemon with that many plugins.
pub(crate) struct Subject {
    daemon: Daemon,
    plugins: usize,
}

impl Subject {
    /// Starts the daemon, at the place of the calling thread. No plugin runs yet.
    pub(crate) fn start(plugins: usize) -> anyhow::Result<Self> {
        Self::start_with(plugins, &plugin_binary(), &[], "")
    }

    /// The same with this program in place of the usual one, and starts that nothing is prepared for.
    pub(crate) fn start_of(plugins: usize, program: &Path) -> anyhow::Result<Self> {
        Self::start_with(plugins, program, &[], NOTHING_PREPARED)
    }

    /// The same, which makes launchers before they are needed.
    pub(crate) fn start_prepared(plugins: usize, program: &Path) -> anyhow::Result<Self> {
        Self::start_with(plugins, program, &[], "")
    }

    /// The same with a launcher that confines nothing.
    pub(crate) fn start_bare(plugins: usize, program: &Path) -> anyhow::Result<Self> {
        let launcher = built("palisade-bench-launcher");
        Self::start_with(plugins, program, &["--launcher", &launcher.to_string_lossy()], NOTHING_PREPARED)
    }

    fn start_with(plugins: usize, program: &Path, arguments: &[&str], configuration: &str) -> anyhow::Result<Self> {
        // One file under many names: a thousand copies would measure the disk.
        let shared = tempfile::Builder::new().prefix("palisade-bench-").tempdir().context("a folder")?;
        let original = shared.path().join("plugin");
        std::fs::copy(program, &original).context("copying the plugin")?;
        let packages = (0..plugins).map(|number| {
            let name = plugin_name(number);
            Package::new(&name, Entry::Link(original.clone()))
                .environment("BENCH_ID", &name)
                .with("limits", json!({"concurrency": 256, "queue": 256}))
        });
        let daemon =
            Daemon::try_start(DaemonOptions::with(packages).arguments(arguments).configuration(configuration).quiet())
                .map_err(|failed| anyhow!("palisaded did not come up ({})", failed.status))?;
        Ok(Self { daemon, plugins })
    }

    /// The daemon, for what is asked of it beside calls.
    pub(crate) fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Brings all plugins up, as fast as the daemon can.
    pub(crate) fn start_all(&self) -> anyhow::Result<()> {
        self.all("start")
    }

    pub(crate) fn stop_all(&self) -> anyhow::Result<()> {
        self.all("stop")
    }

    fn all(&self, operation: &str) -> anyhow::Result<()> {
        let mut agent = self.daemon.agent();
        // As many at once as the daemon takes on one connection.
        let window = usize::try_from(agent.limits.calls_max).context("a limit")?.min(self.plugins);
        let mut under_way = std::collections::VecDeque::new();
        for number in 0..self.plugins {
            if under_way.len() == window {
                finish(&mut agent, &mut under_way)?;
            }
            under_way.push_back(agent.begin(SUPERVISOR_ID, operation, &json!({ "plugin": plugin_name(number) })));
        }
        while !under_way.is_empty() {
            finish(&mut agent, &mut under_way)?;
        }
        Ok(())
    }

    /// A connection that has shaken hands, for raw frames, and the credit that its calls begin with.
    pub(crate) fn line(&self) -> anyhow::Result<(Line, u32)> {
        let mut agent = Agent::connect(&self.daemon.socket()).context("connecting to the daemon")?;
        ensure!(agent.call(&plugin_name(0), "echo", &json!("warm"))? == json!("warm"), "echo echoes");
        let next_id = agent.new_id();
        let stream: UnixStream = agent.stream().try_clone().context("duplicating a socket")?;
        let credit = agent.limits.credit_bytes;
        Ok((Line::new(stream, next_id)?, credit))
    }

    /// Ends it, and fails if anything is left.
    pub(crate) fn stop(self) {
        self.daemon.stop_and_expect_no_orphans();
    }
}

fn finish(agent: &mut Agent, under_way: &mut std::collections::VecDeque<u64>) -> anyhow::Result<()> {
    if let Some(id) = under_way.pop_front() {
        agent.finish(id)?;
    }
    Ok(())
}
