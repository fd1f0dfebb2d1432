//! Which system calls a plugin may make: the rules of `config/seccomp/` as a program for the kernel.
//!
//! `policy` reads the rules and decides each number, `emit` turns the decisions into one search tree, `evaluate` runs such a
//! program without a kernel, `numbers` knows the names. What a plugin is granted changes the policy, so each [`Profile`] has a
//! program of its own, made once.
//!
//! Invariants: what no rule names is refused; a number that the tables do not know is ENOSYS; only x86_64 itself comes so far,
//! other ways to call (i386, x32) end the process. A program refuses nothing that pid 1 does before it becomes the plugin, as
//! it is installed last.
//! Elsewhere: installing it, and answering what it asks (`Action::Notify`), are the launcher's.

pub mod emit;
pub mod evaluate;
pub mod numbers;
pub mod policy;

use std::sync::{LazyLock, OnceLock};

pub use evaluate::Data;
pub use policy::{Action, Permission, Policy, Profile};

/// The rules that this build was made with.
static POLICY: LazyLock<Policy> =
    LazyLock::new(|| Policy::shipped().expect("a test reads these very files, which are part of the program"));

/// The filter for a child with that profile, as the kernel takes it: an array of `struct sock_filter`.
pub fn compile(profile: &Profile) -> Vec<u8> {
    static PROGRAMS: [OnceLock<Vec<u8>>; Profile::ALL.len()] = [const { OnceLock::new() }; Profile::ALL.len()];
    let number = Profile::ALL.iter().position(|one| one == profile).expect("these are all there are");
    let program = PROGRAMS[number].get_or_init(|| {
        let program = emit::program(&POLICY.decisions(profile));
        program.expect("a test emits the program of every profile").bytes()
    });
    program.clone()
}

/// What a child with that profile gets for a call. Where denials are traced, ask with `Denials::Answered` for the errno that
/// the listener is to give.
pub fn decide(profile: &Profile, data: &Data) -> Action {
    POLICY.decisions(profile).decide(data)
}

/// The permission with which a refused call would be allowed; none if there is no such permission.
pub fn allowed_by(number: u32) -> Option<Permission> {
    POLICY.rule(number).and_then(policy::Rule::permission)
}

/// The name of a call.
pub fn name(number: u32) -> Option<&'static str> {
    numbers::name(numbers::Abi::X86_64, number)
}

/// Why a call is decided as it is, in the words of the rules.
pub fn reason(number: u32) -> &'static str {
    let policy: &'static Policy = &POLICY;
    policy.reason(number)
}

#[cfg(test)]
mod tests;
