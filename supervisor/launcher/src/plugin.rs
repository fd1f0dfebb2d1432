//! From a copy of pid 1 to the plugin's program.
//!
//! Everything that needs memory is prepared by the launcher in a `Plan`; this process only makes system calls, and
//! says at which of them it failed.

use crate::{
    channel::{self, Record},
    confine,
    control::Descriptors,
    failure::Stumble,
    gate,
    sys::{self, Answers},
    user_namespace::write,
};
use palisade_launcher::{Resource, Spec, Step};
use rustix::{
    io::Errno,
    process::{DumpableBehavior, Rlimit},
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A file that is being written cannot be executed; whoever unpacked it a moment ago is given this many pauses to close
/// it, a second in all.
const EXEC_ATTEMPTS: u32 = 200;
const EXEC_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// Exit code of a process that did not become a plugin; its reason went over the channel.
const EXIT_NO_PLUGIN: i32 = 127;

/// A specification in the form in which exec wants it.
pub(crate) struct Plan<'a> {
    spec: &'a Spec,
    arguments: sys::Pointers<'a>,
    environment: sys::Pointers<'a>,
    oom_score_adj: String,
    /// The system call filter, an instruction each; none without one.
    filter: Vec<u64>,
    /// The one by which refusals are answered where they are written down.
    denials: Option<Vec<u64>>,
}

impl<'a> Plan<'a> {
    pub(crate) fn of(spec: &'a Spec) -> Self {
        // One that the operator already raised further is left as it is.
        let inherited =
            std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse::<i16>().ok());
        Self {
            spec,
            arguments: sys::Pointers::to(&spec.arguments),
            environment: sys::Pointers::to(&spec.environment),
            oom_score_adj: spec.oom_score_adj.max(inherited.unwrap_or(spec.oom_score_adj)).to_string(),
            filter: spec.seccomp.as_deref().map(instructions).unwrap_or_default(),
            denials: spec.denials.as_deref().map(instructions),
        }
    }

    pub(crate) fn denials(&self) -> Option<&[u64]> {
        self.denials.as_deref()
    }

    pub(crate) fn spec(&self) -> &Spec {
        self.spec
    }
}

/// A filter's bytes as instructions. That they are whole ones was checked when they arrived.
fn instructions(bytes: &[u8]) -> Vec<u64> {
    let (whole, _) = bytes.as_chunks();
    whole.iter().map(|bytes| u64::from_ne_bytes(*bytes)).collect()
}

/// Becomes the plugin, or says why not and ends.
pub(crate) fn run(
    plan: &Plan<'_>,
    descriptors: &Descriptors,
    gate: Option<&OwnedFd>,
    null: BorrowedFd<'_>,
    channel: BorrowedFd<'_>,
) -> ! {
    let stumble = become_plugin(plan, descriptors, gate, null);
    channel::tell(channel, &Record::Failed(stumble), None);
    sys::exit(EXIT_NO_PLUGIN)
}

fn become_plugin(plan: &Plan<'_>, descriptors: &Descriptors, gate: Option<&OwnedFd>, null: BorrowedFd<'_>) -> Stumble {
    match prepare(plan, descriptors, gate, null) {
        Ok(()) => {}
        Err(stumble) => return stumble,
    }
    let program = descriptors.interpreter.as_ref().unwrap_or(&descriptors.entry);
    let mut errno = Errno::TXTBSY;
    for _ in 0..EXEC_ATTEMPTS {
        errno = sys::execute(program.as_fd(), &plan.arguments, &plan.environment);
        if errno != Errno::TXTBSY {
            break;
        }
        // Whoever still writes the file tells nobody when it is done; a second in all.
        std::thread::sleep(EXEC_PAUSE);
    }
    Stumble { step: Step::Exec, detail: 0, errno }
}

/// The steps between the clone and the exec, in their order.
fn prepare(
    plan: &Plan<'_>,
    descriptors: &Descriptors,
    gate: Option<&OwnedFd>,
    null: BorrowedFd<'_>,
) -> Result<(), Stumble> {
    rustix::process::setsid().map_err(Stumble::at(Step::Session))?;

    // The files of an undumpable process belong to root, and exec undoes this anyway; nothing of the plugin runs yet.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(Stumble::at(Step::OomScore))?;
    write(c"/proc/self/oom_score_adj", plan.oom_score_adj.as_bytes()).map_err(Stumble::at(Step::OomScore))?;

    rustix::process::chdir(plan.spec.directory.as_c_str()).map_err(Stumble::at(Step::Directory))?;

    for (number, descriptor) in [
        null,
        descriptors.stdout.as_fd(),
        descriptors.stderr.as_fd(),
        descriptors.input.as_fd(),
        descriptors.output.as_fd(),
    ]
    .into_iter()
    .enumerate()
    {
        sys::install(descriptor, number as i32).map_err(Stumble::at(Step::Descriptors))?;
    }
    sys::close_from_on_exec(5).map_err(Stumble::at(Step::Descriptors))?;

    for (index, limit) in plan.spec.limits.iter().enumerate() {
        let value = Rlimit { current: limit.soft, maximum: limit.hard };
        rustix::process::setrlimit(kernel_name(limit.resource), value)
            .map_err(Stumble::at_index(Step::Limits, index))?;
    }
    sys::unblock_signals();

    if plan.spec.powerless {
        confine::give_up_capabilities().map_err(Stumble::at(Step::Capabilities))?;
        rustix::thread::set_no_new_privs(true).map_err(Stumble::at(Step::NoNewPrivileges))?;
    }
    if let Some(landlock) = &plan.spec.landlock {
        confine::enter_landlock(landlock)?;
    }
    // Last, as it forbids what the others need.
    if !plan.filter.is_empty() {
        let failed = Stumble::at(Step::Seccomp);
        let answers = if gate.is_some() { Answers::Listener } else { Answers::Kernel };
        let listener = sys::install_filter(&plan.filter, answers).map_err(&failed)?;
        if let (Some(gate), Some(listener)) = (gate, listener) {
            gate::hand_over(gate.as_fd(), &listener).map_err(&failed)?;
        }
    }
    Ok(())
}

fn kernel_name(resource: Resource) -> rustix::process::Resource {
    use rustix::process::Resource as Kernel;
    match resource {
        Resource::AddressSpace => Kernel::As,
        Resource::Core => Kernel::Core,
        Resource::CpuSeconds => Kernel::Cpu,
        Resource::Data => Kernel::Data,
        Resource::Descriptors => Kernel::Nofile,
        Resource::FileSize => Kernel::Fsize,
        Resource::LockedMemory => Kernel::Memlock,
        Resource::MessageQueues => Kernel::Msgqueue,
        Resource::Processes => Kernel::Nproc,
        Resource::QueuedSignals => Kernel::Sigpending,
        Resource::RealtimePriority => Kernel::Rtprio,
        Resource::Stack => Kernel::Stack,
    }
}
