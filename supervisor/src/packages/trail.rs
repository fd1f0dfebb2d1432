//! The audit trail, for an operator: what was done with plugins, when, by whom, and why.
//!
//! Elsewhere: what is written there is whoever's who does it; `store::database::audit` keeps it, and bounds it.

use palisade_protocol::{ErrorBody, ErrorCode};
use serde::Serialize;

use super::{Packages, run};
use crate::store::database::DatabaseError;
use crate::store::database::audit::{Entry, Query};

/// Most entries that are told at once.
const ENTRIES_MAX: u32 = 1_000;

/// How many are told where nobody has said how many, or since when.
const ENTRIES_DEFAULT: u32 = 100;

/// Some of the trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trail {
    /// The youngest that were asked for, the oldest of these first.
    pub entries: Vec<TrailEntry>,
    /// Whether there are older ones that were asked for.
    pub more: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrailEntry {
    /// By which it is named.
    pub number: u64,
    /// The rest, beside the number.
    #[serde(flatten)]
    pub entry: Entry,
}

impl Packages {
    /// What was done: the youngest of it, at most `limit`, of a plugin, since a moment, or before what has that number. Also of plugins that
    /// are not there any more.
    ///
    /// # Errors
    /// `plugin_not_found` for a plugin of which nothing is known; `invalid_params` for a `limit` that is none; `unavailable` where the
    /// database cannot be read.
    pub async fn trail(
        &self,
        plugin: Option<String>,
        since_unix_ms: Option<u64>,
        before: Option<u64>,
        limit: Option<u64>,
    ) -> Result<Trail, ErrorBody> {
        let usual = if since_unix_ms.is_some() { ENTRIES_MAX } else { ENTRIES_DEFAULT };
        let most = match limit.map(u32::try_from) {
            None => usual,
            Some(Ok(most @ 1..=ENTRIES_MAX)) => most,
            Some(_) => {
                let message = format!("limit is {}; it can be from 1 to {ENTRIES_MAX}", limit.unwrap_or_default());
                return Err(ErrorBody::new(ErrorCode::InvalidParams, message));
            }
        };
        let database = self.database.clone();
        let which = Query { id: plugin.clone(), since_unix_ms: since_unix_ms.unwrap_or(0), before };
        let (found, is_known) = run(move || {
            let found = database.audit(&which, most + 1)?;
            let any = Query { id: which.id, ..Query::default() };
            let is_known = !found.is_empty() || !database.audit(&any, 1)?.is_empty();
            Ok((found, is_known))
        })
        .await?
        .map_err(|error: DatabaseError| ErrorBody::new(ErrorCode::Unavailable, error.to_string()))?;
        if let Some(plugin) = plugin.filter(|_| !is_known) {
            self.registry()?.find_any(&plugin, None)?;
        }
        let more = (most as usize) < found.len();
        let entries = found.into_iter().take(most as usize).map(|(number, entry)| TrailEntry { number, entry });
        let mut entries: Vec<_> = entries.collect();
        entries.reverse();
        Ok(Trail { entries, more })
    }
}
