//! What a plugin keeps: keys with values that outlive its processes and its versions.
//!
//! A write that has returned is on the disk. Many writes at once wait for the disk together, so start those that belong to different calls at
//! once; the calls of a plugin do so by themselves.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use palisade_protocol::ErrorCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::{Error, Result};

/// So often an [`Store::update`] is tried until it gives way to the others.
const TRIES_MAX: usize = 100;

/// So often it is waited for as long as the supervisor says.
const WAITS_MAX: usize = 10;

/// The longest of these waits.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The state of this plugin. Cheap to clone.
///
/// Keys are text of 1 to 512 bytes without control characters; values anything with `Serialize` and `Deserialize`, at most 512 KiB encoded.
/// All methods fail as [`Host::request`] does, `invalid_params` for a key or value that is none, `resource_exhausted` where there is no
/// room for more, `dependency_unavailable` where the disk does not take it.
#[derive(Debug, Clone)]
pub struct Store {
    host: Host,
}

/// A value and the number of the write that made it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Entry<T> {
    /// The value.
    pub value: T,
    /// Rises with each write to anything in the state, and is never given twice.
    pub revision: u64,
}

/// A key without its value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Key {
    /// The key.
    pub key: String,
    /// Of its value.
    pub revision: u64,
    /// How long the value is, encoded.
    pub bytes: u64,
}

/// A part of the keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Keys {
    /// In the order of their bytes.
    pub keys: Vec<Key>,
    /// There are more after the last of these.
    pub more: bool,
}

/// The key has another revision than was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// Which of the transaction's operations it was, from 0.
    pub operation: usize,
    /// The revision of the key; none where there is no such key.
    pub actual: Option<u64>,
}

#[derive(Deserialize)]
struct Written {
    revision: Option<u64>,
}

#[derive(Serialize)]
struct Named<'a> {
    key: &'a str,
}

#[derive(Serialize)]
struct Valued<'a, T: ?Sized> {
    key: &'a str,
    value: &'a T,
}

#[derive(Serialize)]
struct Compared<'a, T: ?Sized> {
    key: &'a str,
    expected: Option<u64>,
    value: &'a T,
}

#[derive(Serialize)]
struct Listed<'a> {
    prefix: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<&'a str>,
}

impl Store {
    pub(crate) fn new(host: Host) -> Self {
        Self { host }
    }

    /// The value of a key, if there is one.
    ///
    /// # Errors
    /// As [`Store`] says; `execution_failed` where it is not a `T`.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Entry<T>>> {
        self.ask("state.get", &Named { key }).await
    }

    /// Sets the value of a key, and returns its revision once it is on the disk.
    ///
    /// # Errors
    /// As [`Store`] says.
    pub async fn put<T: Serialize + Sync + ?Sized>(&self, key: &str, value: &T) -> Result<u64> {
        let written: Written = self.ask("state.put", &Valued { key, value }).await?;
        Ok(written.revision.unwrap_or_default())
    }

    /// Removes a key. Says whether there was one.
    ///
    /// # Errors
    /// As [`Store`] says.
    pub async fn delete(&self, key: &str) -> Result<bool> {
        let written: Written = self.ask("state.delete", &Named { key }).await?;
        Ok(written.revision.is_some())
    }

    /// The keys that begin with `prefix` and come after `after`: as many as there is room for in an answer.
    ///
    /// # Errors
    /// As [`Store`] says.
    pub async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Keys> {
        self.ask("state.list", &Listed { prefix, after }).await
    }

    /// Sets the value if the key has the revision `expected`; none expects that there is no such key. `Err` within `Ok` says what it has.
    ///
    /// # Errors
    /// As [`Store`] says.
    pub async fn compare_and_set<T: Serialize + Sync + ?Sized>(
        &self,
        key: &str,
        expected: Option<u64>,
        value: &T,
    ) -> Result<Result<u64, Conflict>> {
        written(self.ask("state.compare_and_set", &Compared { key, expected, value }).await)
    }

    /// Does all of it or nothing. Returns the revision of its last write, or which check failed.
    ///
    /// # Errors
    /// As [`Store`] says.
    pub async fn transaction(&self, transaction: Transaction) -> Result<Result<u64, Conflict>> {
        written(self.ask("state.transaction", &transaction).await)
    }

    /// Sets the value of a key to what `change` makes of the one that is there, again and again until nobody has changed it meanwhile. Returns
    /// what it was set to. `change` may be called several times, and is to do nothing else.
    ///
    /// # Errors
    /// As [`Store`] says; what `change` returns; `overloaded` where others were always faster.
    pub async fn update<T, F>(&self, key: &str, mut change: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Sync,
        F: FnMut(Option<T>) -> Result<T>,
    {
        for _ in 0..TRIES_MAX {
            let (old, revision) = match self.get::<T>(key).await? {
                Some(Entry { value, revision }) => (Some(value), Some(revision)),
                None => (None, None),
            };
            let new = change(old)?;
            if self.compare_and_set(key, revision, &new).await?.is_ok() {
                return Ok(new);
            }
        }
        Err(Error::new(ErrorCode::Overloaded, format!("others have changed {key:?} {TRIES_MAX} times meanwhile")))
    }

    /// Says that the state has this form now.
    pub(crate) async fn migrated(&self, schema: u32) -> Result<()> {
        self.ask::<Written>("state.migrated", &serde_json::json!({ "schema": schema })).await.map(drop)
    }

    /// Asks, and waits where the supervisor says that it was asked too often.
    async fn ask<R: DeserializeOwned>(&self, op: &str, params: &(impl Serialize + Sync + ?Sized)) -> Result<R> {
        let mut waits = 0;
        loop {
            match self.host.request(op, params).await {
                Err(error) if error.code() == ErrorCode::Overloaded && waits < WAITS_MAX => {
                    waits += 1;
                    let told =
                        error.body().retry_after_ms.map_or(Duration::from_millis(1 << waits), Duration::from_millis);
                    // The pause that the supervisor asks for, or that grows, before another attempt; nobody is waited for with it.
                    tokio::time::sleep(told.min(WAIT_MAX)).await;
                }
                answer => return answer,
            }
        }
    }
}

fn written(written: Result<Written>) -> Result<Result<u64, Conflict>> {
    match written {
        Ok(written) => Ok(Ok(written.revision.unwrap_or_default())),
        Err(error) => conflict(&error).map(Err).ok_or(error),
    }
}

fn conflict(error: &Error) -> Option<Conflict> {
    let details = error.body().details.as_ref()?;
    let operation = usize::try_from(details.get("operation")?.as_u64()?).ok()?;
    Some(Conflict { operation, actual: details.get("actual")?.as_u64() })
}

/// What is done as a whole or not at all: at most 128 steps in their order, within one frame of a mebibyte.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Transaction {
    operations: Vec<Step>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Step {
    Put { key: String, value: serde_json::Value },
    Delete { key: String },
    Check { key: String, expected: Option<u64> },
}

impl Transaction {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value of a key. What JSON cannot say, as bytes, is a list of numbers here.
    ///
    /// # Errors
    /// `execution_failed` for a value that cannot be encoded.
    pub fn put<T: Serialize + ?Sized>(mut self, key: impl Into<String>, value: &T) -> Result<Self> {
        let value = serde_json::to_value(value).map_err(|error| Error::failed(format!("the value: {error}")))?;
        self.operations.push(Step::Put { key: key.into(), value });
        Ok(self)
    }

    /// Removes a key, if there is one.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.operations.push(Step::Delete { key: key.into() });
        self
    }

    /// Everything is done only if the key has this revision; none expects that there is no such key.
    #[must_use]
    pub fn check(mut self, key: impl Into<String>, expected: Option<u64>) -> Self {
        self.operations.push(Step::Check { key: key.into(), expected });
        self
    }
}

/// A function from one form of the state to the next.
pub(crate) type Migrate = Box<dyn FnOnce(Store) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send>;

/// Brings the state from the form that is there into that of this version, step by step, before the plugin is initialized. A step that was done is
/// noted before the next begins, so one that is interrupted is done again from its own beginning.
pub(crate) async fn migrate(
    store: &Store,
    stored: Option<u32>,
    wanted: Option<u32>,
    steps: Vec<(u32, Migrate)>,
) -> Result<()> {
    let (Some(mut at), Some(wanted)) = (stored, wanted) else { return Ok(()) };
    let mut steps: std::collections::BTreeMap<u32, Migrate> = steps.into_iter().collect();
    while at < wanted {
        let Some(step) = steps.remove(&at) else {
            return Err(Error::new(
                ErrorCode::InitializationFailed,
                format!("its state has schema {at}, and there is no migration from there to {wanted}"),
            ));
        };
        step(store.clone()).await.map_err(|error| {
            let mut body = error.body().clone();
            body.message = format!("the migration of its state from schema {at} to {}: {}", at + 1, body.message);
            Error::from(body)
        })?;
        at += 1;
        store.migrated(at).await?;
    }
    Ok(())
}
