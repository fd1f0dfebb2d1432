//! What the host offers to confine a child with, and the parts of it that outlive one start.
//!
//! Invariants: what a host can do is found out by doing it, never by asking for its version; what cannot be done is said
//! with its reason, and decided upon elsewhere.
//! Elsewhere: performing a confinement is the launcher; starting it is `process`.

pub mod cgroup;
pub mod evidence;
pub mod extent;
pub mod granted;
pub mod lend;
pub mod probe;
pub mod runtime;
pub mod seccomp;
pub mod spec;

use palisade_launcher::UserMap;

/// The user that a plugin sees itself as where it has a user namespace of its own.
pub const PLUGIN_UID: u32 = 1000;

/// The map for a daemon that needs a user namespace to make any other: one that is not root. Root needs none.
pub fn user_map() -> Option<UserMap> {
    let uid = rustix::process::geteuid();
    (!uid.is_root()).then(own_user_map)
}

/// The daemon's own user and group, seen as the plugin's from inside.
fn own_user_map() -> UserMap {
    UserMap {
        inside_uid: PLUGIN_UID,
        outside_uid: rustix::process::geteuid().as_raw(),
        inside_gid: PLUGIN_UID,
        outside_gid: rustix::process::getegid().as_raw(),
    }
}
