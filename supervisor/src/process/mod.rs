//! One child process: started through the launcher, spoken to through pipes, observed and ended through its control.
//!
//! This is the only place in the daemon that starts a process. It starts one program, the launcher, from a sealed copy
//! in memory; everything else is executed by launchers.
//!
//! Invariants: a child lives no longer than its `Control`: dropping it, or the death of the daemon, kills the tree; a
//! signal goes through a pidfd and never to a stored number; every end that is reported as proven was waited for.
//! Elsewhere: what a child may do is decided by `sandbox`; what its frames mean by `wire` and `plugin`.

mod control;
mod exit;
mod image;
mod launcher;
mod launchers;
pub mod look;
mod message;
mod prepared;
pub mod quota;
mod spawn;
mod usage;

pub use control::{Control, Report, Started};
pub use exit::{Exit, Exited};
pub use image::{ImageError, LauncherImage};
pub use launchers::{Launchers, NoLauncher, Waiting};
pub use palisade_launcher::{Denied, Failure, Limit, REFUSALS_TOLD_WITHIN, Resource, Spec, Step, Usage, UserMap};
pub use prepared::{Prepared, Stock};
pub use spawn::{Child, DESCRIPTORS_PER_CHILD, Launch, SpawnError, spawn};
pub use usage::{TreeUsage, proportional_bytes, tree_usage};
