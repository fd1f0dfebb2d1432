//! What is taken from a process for good: capabilities, the way back to them, paths, system calls.
//!
//! Elsewhere: which paths and which system calls is decided by the daemon; the order of the steps is `plugin`'s.

use crate::{failure::Stumble, sys};
use palisade_launcher::{Landlock, Step};
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    thread::{CapabilitySet, CapabilitySets},
};
use std::os::fd::AsFd;

/// Capability sets have this many bits; the kernel says where its own end.
const CAPABILITIES_MAX: u32 = 64;

/// Empties the bounding set, for this process and all that come from it. What they hold already they keep until it is given up.
pub(crate) fn empty_bounding_set() -> Result<(), Errno> {
    for number in 0..CAPABILITIES_MAX {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(Errno::INVAL) if 0 < number => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Gives up every capability, in every other set, for this process and whatever it executes.
pub(crate) fn give_up_capabilities() -> Result<(), Errno> {
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// Enters a Landlock domain. The paths are looked up in this process's root.
pub(crate) fn enter_landlock(landlock: &Landlock) -> Result<(), Stumble> {
    let whole = Stumble::at_index(Step::Landlock, landlock.rules.len());
    let set = sys::landlock_rule_set(landlock.handled_fs, landlock.handled_net, landlock.scoped).map_err(&whole)?;
    for (index, rule) in landlock.rules.iter().enumerate() {
        let this = Stumble::at_index(Step::Landlock, index);
        match rustix::fs::openat(CWD, rule.path.as_c_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(folder) => sys::landlock_allow(set.as_fd(), folder.as_fd(), rule.rights).map_err(this)?,
            Err(Errno::NOENT) if rule.optional => {}
            Err(errno) => return Err(this(errno)),
        }
    }
    for rule in &landlock.ports {
        sys::landlock_allow_port(set.as_fd(), rule.port, rule.rights).map_err(&whole)?;
    }
    sys::landlock_enter(set.as_fd()).map_err(&whole)
}
