//! A thousand plugins from nothing to active, beside the same executable started directly until it says hello.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use anyhow::{Context, ensure};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use palisade_protocol::{HEADER_BYTES, Header, Kind};

use crate::floor::plugin_name;
use crate::measure::{Effort, Place, at, median};
use crate::subject::{Subject, plugin_binary};
use crate::table::{Row, Target};

pub(crate) const NAMES: &[&str] = &["start_1000", "start_1000_first"];

/// Starts take long, so fewer rounds than of calls.
const ROUNDS_MAX: usize = 3;

pub(crate) fn run(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let (floor, ours, first) = at(Place::Anywhere, || {
        let (mut floor, mut ours, mut first) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..effort.rounds.min(ROUNDS_MAX) {
            floor.push(directly(effort.many).context("the floor")?);
            if effort.floors_only {
                continue;
            }
            let subject = Subject::start(effort.many)?;
            // The first time, each package is staged in the store as well.
            let begun = Instant::now();
            subject.start_all()?;
            first.push(begun.elapsed().as_secs_f64() * 1e3);
            subject.stop_all()?;
            let begun = Instant::now();
            subject.start_all()?;
            ours.push(begun.elapsed().as_secs_f64() * 1e3);
            subject.stop();
        }
        Ok((floor, ours, first))
    })?;
    let row = |name: &str, values: &[f64], target| Row {
        name: name.into(),
        value: median(values),
        unit: "ms",
        floor: Some(median(&floor)),
        target,
    };
    Ok(vec![row("start_1000", &ours, Target::RatioAtMost(2.0)), row("start_1000_first", &first, Target::None)])
}

/// Starts that many children as fast as it can be done and waits for a hello of each; returns how long that took in ms.
pub(crate) fn directly(count: usize) -> anyhow::Result<f64> {
    let program = CString::new(plugin_binary().as_os_str().as_bytes()).context("a path")?;
    let attributes = PosixSpawnAttr::init().context("posix_spawn")?;
    let mut children = Vec::with_capacity(count);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum },
    )
    .context("raising the descriptor limit")?;
    let below = above_standard(4)?;
    let null = &below[0];
    let begun = Instant::now();
    for number in 0..count {
        let (their_input, our_output) = pipe()?;
        let (our_input, their_output) = pipe()?;
        let mut actions = PosixSpawnFileActions::init().context("posix_spawn")?;
        for standard in 0..3 {
            actions.add_dup2(null.as_raw_fd(), standard).context("posix_spawn")?;
        }
        actions.add_dup2(their_input.as_raw_fd(), 3).context("posix_spawn")?;
        actions.add_dup2(their_output.as_raw_fd(), 4).context("posix_spawn")?;
        let environment = [CString::new(format!("BENCH_ID={}", plugin_name(number))).context("a variable")?];
        let child = posix_spawn(program.as_c_str(), &actions, &attributes, &[program.as_c_str()], &environment)
            .context("starting the plugin directly")?;
        children.push((child, File::from(our_input), our_output));
    }
    for (_, input, _) in &mut children {
        read_hello(input)?;
    }
    let took = begun.elapsed().as_secs_f64() * 1e3;
    let mut ends = Vec::with_capacity(count);
    for (child, input, output) in children {
        drop((input, output));
        ends.push(child);
    }
    for child in ends {
        nix::sys::wait::waitpid(child, None).context("waiting for a child")?;
    }
    Ok(took)
}

/// `/dev/null`, so often that what is opened next lies above `last`, and not where a child's descriptors go.
pub(crate) fn above_standard(last: i32) -> anyhow::Result<Vec<File>> {
    let mut below = Vec::new();
    while below.last().is_none_or(|file: &File| file.as_raw_fd() < last) {
        below.push(File::options().read(true).write(true).open("/dev/null").context("opening /dev/null")?);
    }
    Ok(below)
}

/// Waits for a plugin's first frame.
pub(crate) fn read_hello(input: &mut File) -> anyhow::Result<()> {
    let mut header = [0; HEADER_BYTES];
    input.read_exact(&mut header).context("a child said nothing")?;
    let header = Header::read(&header);
    ensure!(header.kind == Kind::Hello as u8, "the first frame is a hello");
    let mut body = vec![0; header.len as usize];
    input.read_exact(&mut body).context("a child's hello is cut off")
}

/// Both ends are closed by exec, so that a child holds no other's pipe.
pub(crate) fn pipe() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("making a pipe")
}
