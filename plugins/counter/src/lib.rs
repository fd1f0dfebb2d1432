//! The plugin `counter`: it counts, and what it has counted outlives its processes and its versions.
//!
//! There are two versions of it. The first has one count; the second has one for each name, and brings over what the first has kept.

use palisade_sdk::{Action, Call, Error, Plugin, Result, Transaction};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Under which the first version keeps its count.
const COUNT: &str = "count";

/// With what the keys of the second begin, before the name.
const COUNTS: &str = "counts/";

/// The name that the second gives to what was counted without one.
const ALL: &str = "all";

/// A name is part of a key.
const NAME_BYTES_MAX: usize = 64;

/// What the first version is asked to count.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// How much; 1 if it is not said.
    pub by: Option<u32>,
}

/// What the second version is asked to count.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddNamed {
    /// What is counted; `all` if it is not said.
    #[schemars(length(min = 1, max = 64))]
    pub name: Option<String>,
    /// How much; 1 if it is not said.
    pub by: Option<u32>,
}

/// One count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Count {
    /// What was counted.
    pub name: String,
    /// How often.
    pub count: u64,
}

/// The first version: one count.
pub fn first() -> Plugin {
    Plugin::new("counter", "1.0.0")
        .state_schema(1)
        .action("add", "Counts, and returns the count.", |call: Call, Add { by }: Add| async move {
            add(&call, COUNT, by).await
        })
        .with(Action::new("count", "What was counted.").idempotent().handler(|call: Call, (): ()| async move {
            let count = call.store().get::<u64>(COUNT).await?;
            Ok(count.map_or(0, |entry| entry.value))
        }))
}

/// The second version: a count for each name. What the first has kept becomes the one of `all`.
pub fn second() -> Plugin {
    Plugin::new("counter", "2.0.0")
        .state_schema(2)
        .migration(1, |store| async move {
            let Some(count) = store.get::<u64>(COUNT).await? else { return Ok(()) };
            // One transaction: there is the old count, or the new one, and never both or none.
            let change = Transaction::new().put(format!("{COUNTS}{ALL}"), &count.value)?.delete(COUNT);
            store.transaction(change).await.map(drop)
        })
        .action("add", "Counts for a name, and returns its count.", |call: Call, params: AddNamed| async move {
            let name = params.name.unwrap_or_else(|| ALL.to_owned());
            if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
                let message = format!("a name has 1 to {NAME_BYTES_MAX} bytes without control characters");
                return Err(Error::invalid_params(message));
            }
            add(&call, &format!("{COUNTS}{name}"), params.by).await
        })
        .with(Action::new("counts", "What was counted, by name.").idempotent().handler(counts))
}

/// Many calls may do so at once, and each of them counts.
async fn add(call: &Call, key: &str, by: Option<u32>) -> Result<u64> {
    let by = u64::from(by.unwrap_or(1));
    call.store().update(key, |old: Option<u64>| Ok(old.unwrap_or(0).saturating_add(by))).await
}

async fn counts(call: Call, (): ()) -> Result<Vec<Count>> {
    let store = call.store();
    let mut counts = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let listed = store.list(COUNTS, after.as_deref()).await?;
        for key in &listed.keys {
            // One that was removed meanwhile is passed over.
            if let Some(entry) = store.get::<u64>(&key.key).await? {
                let name = key.key.strip_prefix(COUNTS).unwrap_or_default().to_owned();
                counts.push(Count { name, count: entry.value });
            }
        }
        after = listed.keys.last().map(|key| key.key.clone());
        if !listed.more || after.is_none() {
            return Ok(counts);
        }
    }
}
