//! The figures of Palisade, each beside the floor that the same machine reaches in the same run.
//!
//! `palisade-bench [NAME…]` prints one table and writes `target/bench.json`. Rounds of floor and daemon alternate and medians
//! are compared, so that a slow minute of the machine meets both. The same executable plays the floors' relays and children
//! (`--role`); the daemon, its launcher and the plugin are the built programs beside it. A target that is not met is printed red.
#![forbid(unsafe_code)]

mod agent;
mod call;
mod codec_relay;
mod confined;
mod confined_floor;
mod discover;
mod egress;
mod floor;
mod harm;
mod install;
mod measure;
mod memory;
mod payload;
mod reload;
mod scale;
mod schema;
mod start;
mod state;
mod subject;
mod table;
mod throughput;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;

use measure::Effort;
use table::{Row, Table};

/// Measures the figures.
#[derive(Debug, Parser)]
#[command(name = "palisade-bench")]
struct Arguments {
    /// Which figures; all by default. A figure brings those along that the same measurement yields.
    names: Vec<String>,
    /// A smoke run: everything works, and the figures mean little.
    #[arg(long)]
    quick: bool,
    /// Where to write the figures.
    #[arg(long, default_value = "target/bench.json")]
    out: PathBuf,
    /// Only list the names.
    #[arg(long)]
    list: bool,
    /// Only the floors, without the daemon.
    #[arg(long)]
    floors: bool,
    /// For the program itself: what to be.
    #[arg(long, hide = true)]
    role: Option<floor::Role>,
    /// For the program itself: where to listen.
    #[arg(long, hide = true)]
    socket: Option<PathBuf>,
    /// For the program itself: how many children to keep.
    #[arg(long, hide = true, default_value_t = 1)]
    children: usize,
}

/// One measurement and the names of the rows it yields.
struct Group {
    names: &'static [&'static str],
    run: fn(&Effort) -> anyhow::Result<Vec<Row>>,
}

const GROUPS: &[Group] = &[
    Group { names: call::NAMES, run: call::run },
    Group { names: schema::NAMES, run: schema::run },
    Group { names: throughput::PIPELINED, run: throughput::pipelined },
    Group { names: throughput::AGENTS, run: throughput::agents },
    Group { names: payload::NAMES, run: payload::run },
    Group { names: scale::NAMES, run: scale::run },
    Group { names: start::NAMES, run: start::run },
    Group { names: confined::NAMES, run: confined::run },
    Group { names: confined::CALL, run: confined::calls },
    Group { names: harm::KILL, run: harm::kill },
    Group { names: harm::NEIGHBOUR, run: harm::neighbour },
    Group { names: egress::NAMES, run: egress::run },
    Group { names: discover::DISCOVER, run: discover::discover },
    Group { names: discover::RESOLVE, run: discover::resolve },
    Group { names: install::NAMES, run: install::run },
    Group { names: reload::LOSS, run: reload::loss },
    Group { names: reload::TIMES, run: reload::times },
    Group { names: reload::LATENCY, run: reload::latency },
    Group { names: reload::LEAK, run: reload::leak },
    Group { names: state::NAMES, run: state::run },
    Group { names: memory::NAMES, run: memory::run },
];

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(role) = arguments.role {
        floor::play(role, arguments.socket.as_deref(), arguments.children)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.list {
        for name in GROUPS.iter().flat_map(|group| group.names) {
            println!("{name}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    for name in &arguments.names {
        if !GROUPS.iter().any(|group| group.names.contains(&name.as_str())) {
            bail!("no figure is called `{name}`; --list names them");
        }
    }
    let effort = Effort::new(arguments.quick, arguments.floors);
    let mut table = Table::default();
    for group in GROUPS {
        if !arguments.names.is_empty() && !arguments.names.iter().any(|name| group.names.contains(&name.as_str())) {
            continue;
        }
        eprintln!("measuring {} …", group.names.join(", "));
        match (group.run)(&effort) {
            Ok(rows) => table.extend(rows),
            // The other figures are worth having all the same; the exit status tells.
            Err(error) => table.failed(group.names, &error),
        }
    }
    print!("{table}");
    if !effort.floors_only {
        table.write(&arguments.out).with_context(|| format!("writing {}", arguments.out.display()))?;
    }
    Ok(if table.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
