//! The plugin that the benchmark calls: an ordinary one, made with the SDK, that takes its id from its environment so that a
//! thousand of it can be installed.
#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::time::Instant;

use palisade_sdk::{Action, Bytes, Call, Error, Exit, Plugin, Raw, Result};
use schemars::JsonSchema;
use serde::Deserialize;

/// Most that is asked for at once.
const BYTES_MAX: usize = 64 << 20;

/// Most that is kept at once, most often, and under so many keys.
const KEPT_BYTES_MAX: usize = 512 << 10;
const KEPT_TIMES_MAX: usize = 10_000;
const KEYS: usize = 16;

/// What a stream is sent in.
const PIECE_BYTES: usize = 128 << 10;

fn main() -> Exit {
    let id = std::env::var("BENCH_ID").unwrap_or_else(|_| "bench".into());
    Plugin::new(id, "0.1.0")
        .concurrency(256)
        .with(Action::new("echo", "Returns its parameters as they came.").idempotent().handler(echo))
        .action("blob", "Returns that many bytes as one value.", blob)
        .with(Action::new("pour", "Sends that many bytes as a stream.").output_bytes().handler(pour))
        .action("register", "Takes ten fields, which are checked.", register)
        .action("secret", "Asks for a secret, and returns its length.", secret)
        .action("keep", "Keeps so many bytes so many times, and returns how many microseconds each took.", keep)
        .action("accept", "Takes whatever comes.", accept)
        .action("misbehave", "Spins, forks, floods its log and fills its memory, for as long as it lives.", misbehave)
        .with(Action::new("drink", "Takes a stream of bytes and touches them.").input_bytes().handler(drink))
        .run()
}

async fn echo(_call: Call, params: Raw) -> Result<Raw> {
    Ok(params)
}

async fn secret(call: Call, name: String) -> Result<usize> {
    Ok(call.secret(&name).await?.expose().len())
}

/// What is kept, and how often.
#[derive(Deserialize, JsonSchema)]
struct Keep {
    bytes: usize,
    times: usize,
}

async fn keep(call: Call, keep: Keep) -> Result<Vec<f64>> {
    let (store, value) = (call.store(), "v".repeat(keep.bytes.min(KEPT_BYTES_MAX)));
    let mut taken = Vec::new();
    for time in 0..keep.times.min(KEPT_TIMES_MAX) {
        let key = format!("key-{}", time % KEYS);
        let begun = Instant::now();
        store.put(&key, &value).await?;
        taken.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(taken)
}

/// Ten fields, as actions have them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "they are checked, and that is all")]
struct Form {
    #[schemars(length(min = 1, max = 64))]
    title: String,
    author: String,
    #[schemars(range(min = 1, max = 10_000))]
    pages: u32,
    price: f64,
    is_public: bool,
    language: Language,
    tags: Vec<String>,
    size: Size,
    note: Option<String>,
    #[serde(default)]
    revision: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Language {
    English,
    Finnish,
    Greek,
}

/// The daemon checks the parameters by the schema, and the SDK by their type.
async fn register(_call: Call, _form: Form) -> Result<()> {
    Ok(())
}

/// Nobody does.
async fn accept(_call: Call, _params: Raw) -> Result<()> {
    Ok(())
}

/// How much is wanted.
#[derive(Deserialize, JsonSchema)]
struct Size {
    /// In bytes.
    bytes: usize,
}

impl Size {
    fn checked(&self) -> Result<usize> {
        if self.bytes > BYTES_MAX {
            return Err(Error::invalid_params(format!("bytes: at most {BYTES_MAX}")));
        }
        Ok(self.bytes)
    }
}

/// The same value is sent again and again, as the floor's child does: what is measured is its way, not its making.
async fn blob(_call: Call, size: Size) -> Result<Raw> {
    static VALUE: OnceLock<Bytes> = OnceLock::new();
    let bytes = size.checked()?;
    let value = VALUE.get_or_init(|| {
        let length = u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
        [&[0xc6][..], &length, &vec![1; bytes]].concat().into()
    });
    Raw::from_bytes(value.clone())
}

async fn pour(call: Call, size: Size) -> Result<()> {
    static PIECE: OnceLock<Bytes> = OnceLock::new();
    let piece = PIECE.get_or_init(|| vec![1; PIECE_BYTES].into());
    let mut output = call.output_bytes()?;
    let mut left = size.checked()?;
    while left > 0 {
        let step = left.min(piece.len());
        output.send(piece.slice(..step)).await?;
        left -= step;
    }
    Ok(())
}

/// What harm is wanted.
#[derive(Deserialize, JsonSchema)]
struct Harm {
    /// So many bytes of memory are filled.
    bytes: usize,
    /// One kind alone: `spin`, `fork`, `log` or `memory`; all of them without.
    only: Option<String>,
}

/// Begins to do harm and answers. Whatever is refused is tried again.
async fn misbehave(_call: Call, harm: Harm) -> Result<()> {
    let wanted = |kind: &str| harm.only.as_deref().is_none_or(|only| only == kind);
    if wanted("spin") {
        std::thread::spawn(spin);
    }
    if wanted("fork") {
        std::thread::spawn(fork);
    }
    if wanted("log") {
        std::thread::spawn(log);
    }
    if wanted("memory") {
        std::thread::spawn(move || {
            loop {
                fill(harm.bytes);
            }
        });
    }
    Ok(())
}

fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

fn fork() {
    // It may not execute anything, but the process that was to do so has been made by then.
    loop {
        let _ = palisade_tests::command::command("/plugin/main").spawn();
    }
}

fn log() {
    let line = [&[b'f'; 255][..], b"\n"].concat().repeat(16);
    loop {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), &line);
    }
}

/// Takes memory until there is no more or almost so much: with a controller, all of it would be its end.
fn fill(bytes: usize) {
    const STEP: usize = 1 << 20;
    let mut taken: Vec<Vec<u8>> = Vec::new();
    for _ in 0..bytes / STEP / 8 * 7 {
        let mut more = Vec::new();
        if more.try_reserve_exact(STEP).is_err() || taken.try_reserve(1).is_err() {
            return;
        }
        more.resize(STEP, 1);
        taken.push(more);
    }
    std::hint::black_box(&taken);
}

async fn drink(call: Call, (): ()) -> Result<u8> {
    let mut input = call.input_bytes()?;
    let mut sum = 0;
    while let Some(bytes) = input.next().await? {
        sum ^= bytes.iter().step_by(64).fold(0, |sum, byte| sum ^ byte);
    }
    Ok(sum)
}
