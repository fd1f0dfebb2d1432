//! Where a call goes: finds the plugin, and hands the call over.
//!
//! The head of the call is all that is looked at here; its parameters are checked where the action's schema is known.

use std::sync::Arc;

use palisade_protocol::ErrorBody;

use crate::plugin::call::{Call, NewCall};
use crate::registry::Registry;

/// Which plugin a call is for.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its id.
    pub plugin: &'a str,
    /// Which versions will do; any if absent.
    pub version: Option<&'a str>,
}

/// Sends a call to the plugin it names. `known` gets it before anything can be answered.
///
/// # Errors
/// Why it was refused; nothing was sent then.
pub fn route(
    registry: &Registry,
    target: Target<'_>,
    call: NewCall,
    known: impl FnOnce(&Arc<Call>),
) -> Result<(), ErrorBody> {
    registry.find(target.plugin, target.version)?.call(call, known)
}
