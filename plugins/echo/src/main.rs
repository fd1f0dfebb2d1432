//! The smallest plugin, to be read first: one action for each thing that a plugin can do.

use std::time::Duration;

use palisade_sdk::{Action, Call, Error, Exit, Plugin, Raw, Result, log};
use schemars::JsonSchema;
use serde::Deserialize;

fn main() -> Exit {
    Plugin::new("echo", env!("CARGO_PKG_VERSION"))
        .with(Action::new("echo", "Returns its parameters as they came.").idempotent().handler(echo))
        .with(Action::new("count", "Counts from 1 to `to`.").idempotent().output::<u64>().handler(count))
        .with(
            Action::new("upper", "Returns text in upper case, as it comes.")
                .input_bytes()
                .output_bytes()
                .handler(upper),
        )
        .with(Action::new("cat", "Returns bytes as they come.").input_bytes().output_bytes().handler(cat))
        .action("slow", "Takes its time, and tells how far it has come.", slow)
        .action("fail", "Fails, with the message it was given.", fail)
        .run()
}

/// `Raw` parameters are passed on without being decoded.
async fn echo(_call: Call, params: Raw) -> Result<Raw> {
    Ok(params)
}

#[derive(Deserialize, JsonSchema)]
struct Count {
    /// The last number.
    to: u64,
}

/// An output stream: `send` waits while the receiver has no room.
async fn count(call: Call, params: Count) -> Result<()> {
    let mut numbers = call.output::<u64>()?;
    for number in 1..=params.to {
        numbers.send(number).await?;
    }
    Ok(())
}

/// A stream each way. Only ASCII letters change, as a letter of several bytes may arrive in pieces.
async fn upper(call: Call, (): ()) -> Result<()> {
    let (mut input, mut output) = (call.input_bytes()?, call.output_bytes()?);
    while let Some(bytes) = input.next().await? {
        output.send(bytes.to_ascii_uppercase()).await?;
    }
    Ok(())
}

async fn cat(call: Call, (): ()) -> Result<()> {
    let (mut input, mut output) = (call.input_bytes()?, call.output_bytes()?);
    while let Some(bytes) = input.next().await? {
        output.send(bytes).await?;
    }
    Ok(())
}

#[derive(Deserialize, JsonSchema)]
struct Slow {
    /// For how long, in milliseconds.
    ms: u64,
}

/// Cancellation is cooperative: who asks for `cancelled` ends by itself.
async fn slow(call: Call, params: Slow) -> Result<u64> {
    let cancelled = call.cancelled();
    let work = async {
        for percent in 0..100_u8 {
            call.progress(f64::from(percent), format!("{percent} % of {} ms", params.ms));
            // To take its time is all the work that this action has.
            tokio::time::sleep(Duration::from_micros(params.ms.saturating_mul(10))).await;
        }
        call.progress(100.0, "done");
    };
    tokio::select! {
        () = work => Ok(params.ms),
        reason = cancelled => {
            log::info!(call; "cancelled: {reason}");
            Err(Error::cancelled())
        }
    }
}

#[derive(Deserialize, JsonSchema)]
struct Fail {
    /// What to fail with.
    message: String,
}

async fn fail(_call: Call, params: Fail) -> Result<()> {
    Err(Error::failed(params.message).with_hint("it was asked to fail"))
}
