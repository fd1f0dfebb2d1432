//! The table itself.

use super::Bites::{Allowed, Otherwise, Outside, Sibling, Without, WithoutInTheGuest};
use super::Fence::{
    Cgroup, Daemon, Filter, Kernel, Landlock, Launcher, Limits, Network, NoExec, Powers, Processes, Root, User,
    UserNamespace,
};
use super::{Attempt, Bites, Fence, Mishap, Row, Shown};

const ALL: &str = "A B C";

const fn tried(
    number: u32,
    name: &'static str,
    attempt: &'static str,
    attempts: &'static [Attempt],
    tests: &'static [&'static str],
) -> Row {
    Row { number, name, attempt, shown: Shown::Attempts(attempts), tests, tiers: ALL }
}

const fn tested(
    number: u32,
    name: &'static str,
    attempt: &'static str,
    outcome: &'static str,
    fences: &'static [Fence],
    tests: &'static [&'static str],
) -> Row {
    Row { number, name, attempt, shown: Shown::Tests { outcome, fences }, tests, tiers: ALL }
}

const fn only_on(row: Row, tiers: &'static str) -> Row {
    Row { tiers, ..row }
}

const fn a(what: &'static str, met: &'static [&'static str], fences: &'static [Fence], bites: Bites) -> Attempt {
    Attempt { what, met, fences, bites }
}

const NOTHING: &[&str] = &["ENOENT"];
const READ_ONLY: &[&str] = &["EROFS"];
const KILLED: &[&str] = &["SIGSYS"];
const FORBIDDEN: &[&str] = &["EPERM"];
const UNKNOWN: &[&str] = &["ENOSYS"];
const OF_PID_1: &[&str] = &["EACCES", "EPERM"];
const AT_ITS_LIMIT: &[&str] = &["EAGAIN"];
const NO_TCP: &[&str] = &["EACCES", "ECONNREFUSED", "ENETUNREACH"];

/// Every row, in its order.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    tried(1, "read-shadow", "read what is the host's", &[
        a("/etc/shadow", NOTHING, &[Root, User], Sibling),
        a("a file for everybody", NOTHING, &[Root, Landlock(1)], Without),
        a("/home", NOTHING, &[Root], Without),
    ], &[]),
    tried(2, "write-outside", "make a file outside of its own folders", &[
        a("its package", READ_ONLY, &[Root, Landlock(1)], Without),
        a("/usr", READ_ONLY, &[Root, Landlock(1), User], Sibling),
        a("/", READ_ONLY, &[Root, Landlock(1), User], Sibling),
        a("/etc", READ_ONLY, &[Root, Landlock(1), User], Sibling),
        a("/dev", READ_ONLY, &[Root, Landlock(1), User], Sibling),
    ], &["isolation::what_it_writes_is_its_own"]),
    tried(3, "dotdot", "`..` again and again, from its data", &[
        a("out of its data", NOTHING, &[Root, Landlock(1)], Without),
    ], &[]),
    tried(4, "symlink-out", "a link in its data or package that leads out of it", &[
        a("its own link", NOTHING, &[Root, Landlock(1)], Without),
    ], &["starts::a_link_in_a_package"]),
    tested(5, "symlink-race", "a folder of its package becomes a link and a folder again while it is copied",
        "the copy has what was the package's, or there is none", &[Daemon], &["supervisor/src/store/mod::a_folder_that_becomes_a_link_is_never_followed"]),
    tried(6, "mknod", "make a device", &[
        a("character 1:1", FORBIDDEN, &[Filter, Landlock(1), UserNamespace], Sibling),
        a("block 8:0", FORBIDDEN, &[Filter, Landlock(1), UserNamespace], Sibling),
    ], &["fences::devices_can_be_made_by_the_hosts_root"]),
    tried(7, "dev-open", "open devices of the host", &[
        a("/dev/mem", NOTHING, &[Root, User], Sibling),
        a("/dev/kmsg", NOTHING, &[Root, User], Sibling),
        a("/dev/kvm", NOTHING, &[Root, User], Sibling),
        a("/dev/fuse", NOTHING, &[Root], Otherwise),
        a("/dev/tty", NOTHING, &[Root], Otherwise),
        a("/dev/ptmx", NOTHING, &[Root], Without),
        a("/dev/null", &["ok"], &[], Allowed),
        a("/dev/urandom", &["ok"], &[], Allowed),
    ], &[]),
    tried(8, "fd-inherit", "look for descriptors that were left open", &[
        a("list", &["0 1 2 3 4"], &[Launcher], Outside),
    ], &[]),
    tried(9, "fd-cwd", "leave through its working directory", &[
        a("cwd", &["/data"], &[Root], Otherwise),
        a("out of it", NOTHING, &[Root, Landlock(1)], Without),
    ], &[]),
    tried(10, "proc-1", "look into its pid 1", &[
        a("exe", OF_PID_1, &[Launcher], Outside),
        a("root", OF_PID_1, &[Launcher], Outside),
        a("cwd", OF_PID_1, &[Launcher], Outside),
        a("fd", OF_PID_1, &[Launcher], Outside),
        a("environ", OF_PID_1, &[Launcher], Outside),
        a("mem", OF_PID_1, &[Launcher], Outside),
        a("maps", OF_PID_1, &[Launcher], Outside),
    ], &[]),
    tried(11, "self-exe-write", "write to a program that runs", &[
        a("/proc/self/exe", &["EROFS", "ETXTBSY", "EACCES"], &[Root, Landlock(1), Kernel], Sibling),
        a("/proc/1/exe", OF_PID_1, &[Launcher], Sibling),
    ], &["fences::a_program_that_does_not_run_can_be_written"]),
    tried(12, "sysrq", "steer the kernel through files", &[
        a("/proc/sysrq-trigger", NOTHING, &[Root, User], Sibling),
        a("/proc/sys/kernel/core_pattern", NOTHING, &[Root, User], Sibling),
        a("/proc/meminfo", NOTHING, &[Root], Without),
        a("/sys/kernel", NOTHING, &[Root], Without),
    ], &[]),
    tried(13, "cgroup-escape", "move to another cgroup", &[
        a("/sys/fs/cgroup/cgroup.procs", NOTHING, &[Root, Landlock(1), User], Sibling),
        a("/sys/fs/cgroup/unified/cgroup.procs", NOTHING, &[Root, Landlock(1), User], Sibling),
        a("one that anybody may write", NOTHING, &[Root, Landlock(1)], Without),
    ], &[]),
    tried(14, "mount", "change what is mounted", &[
        a("mount", KILLED, &[Filter, Powers, Landlock(1)], Without),
        a("umount2", KILLED, &[Filter, Powers, Landlock(1)], Without),
        a("fsopen", KILLED, &[Filter, Powers], Without),
        a("open_tree", KILLED, &[Filter, Powers], Without),
        a("move_mount", KILLED, &[Filter, Powers, Landlock(1)], Without),
    ], &[]),
    tried(15, "pivot/chroot", "another root", &[
        a("pivot_root", KILLED, &[Filter, Powers, Landlock(1)], Without),
        a("chroot", FORBIDDEN, &[Filter, Powers], Without),
    ], &[]),
    tried(16, "unshare", "further namespaces", &[
        a("user", FORBIDDEN, &[Filter], Without),
        a("mount", FORBIDDEN, &[Filter, Powers], Without),
        a("net", FORBIDDEN, &[Filter, Powers], Without),
    ], &[]),
    tried(17, "clone3", "a process by a call whose flags cannot be seen", &[
        a("a process", UNKNOWN, &[Filter], Without),
    ], &[]),
    tried(18, "setns", "enter a namespace", &[
        a("its own mount namespace", KILLED, &[Filter, Powers], Without),
    ], &[]),
    tried(19, "ptrace-sib", "steer another process", &[
        a("a child of its own", KILLED, &[Filter], Without),
        a("the supervisor", KILLED, &[Filter, Processes], Sibling),
    ], &[]),
    tried(20, "vm-readv", "read another process's memory", &[
        a("a child of its own", FORBIDDEN, &[Filter], Without),
    ], &[]),
    tried(21, "kill-all", "kill whom it can", &[
        a("the supervisor", &["ESRCH"], &[Processes], Outside),
        a("pid 1", &["ok"], &[], Allowed),
        a("everybody", &["ok"], &[], Allowed),
    ], &[]),
    tried(22, "int80", "call the kernel as i386", &[
        a("socket", KILLED, &[Filter], Otherwise),
    ], &["supervisor/src/sandbox/seccomp/tests::every_number_is_answered_as_the_table_says"]),
    tried(23, "x32", "call the kernel as x32", &[
        a("getpid", KILLED, &[Filter], Otherwise),
        a("ptrace", KILLED, &[Filter], Otherwise),
    ], &[]),
    tried(24, "io-uring", "a ring, whose work passes no filter", &[
        a("io_uring_setup", UNKNOWN, &[Filter], Otherwise),
    ], &[]),
    tried(25, "bpf, userfaultfd / perf", "code in the kernel, faults by hand, counters", &[
        a("bpf", KILLED, &[Filter], Otherwise),
        a("userfaultfd", KILLED, &[Filter], Otherwise),
        a("perf_event_open", FORBIDDEN, &[Filter], Otherwise),
    ], &[]),
    tried(26, "keyctl", "keys of others", &[
        a("add_key", FORBIDDEN, &[Filter], Otherwise),
        a("keyctl", FORBIDDEN, &[Filter], Otherwise),
        a("request_key", FORBIDDEN, &[Filter], Otherwise),
        a("a sibling's key", FORBIDDEN, &[Filter], Without),
        a("a sibling's keyring", FORBIDDEN, &[Filter], Without),
    ], &[]),
    tested(27, "setuid-bin", "execute a program that is setuid root, with `execute_code`",
        "it runs, and gives nothing", &[Root, Powers, UserNamespace], &["fences::a_setuid_program_gives_nothing"]),
    tried(28, "setuid0", "become root, or take rights", &[
        a("setresuid", FORBIDDEN, &[Filter, Powers], Without),
        a("capset", FORBIDDEN, &[Filter, Powers], Without),
    ], &[]),
    tried(29, "tty", "a terminal", &[
        a("/dev/tty", NOTHING, &[Root], Otherwise),
        a("TIOCSCTTY", FORBIDDEN, &[Filter], Otherwise),
        a("TIOCSTI", FORBIDDEN, &[Filter], Otherwise),
    ], &[]),
    tried(30, "af-families", "a socket of each of 46 families, of any kind", &[
        a("all", &["1 2 10 16"], &[Filter], Otherwise),
    ], &[]),
    tried(31, "tcp-direct", "connect to somebody who listens", &[
        a("127.0.0.1", NO_TCP, &[Network, Landlock(4)], Without),
        a("::1", NO_TCP, &[Network, Landlock(4)], Without),
        a("an address of a network namespace", NO_TCP, &[Network, Landlock(4)], Without),
    ], &[]),
    tried(32, "udp/icmp/raw/packet", "other ways out", &[
        a("udp", &["ECONNREFUSED"], &[Network], Without),
        a("tcp fast open", NO_TCP, &[Network], Without),
        a("raw", FORBIDDEN, &[Filter, Powers], Without),
        a("packet", FORBIDDEN, &[Filter, Powers], Without),
        a("icmp", &["EPROTONOSUPPORT"], &[Filter], Otherwise),
    ], &[]),
    tried(33, "mptcp", "TCP by a protocol that Landlock does not know", &[
        a("socket", &["EPROTONOSUPPORT"], &[Filter], Otherwise),
    ], &[]),
    tried(34, "unix-abstract", "an abstract socket of somebody else", &[
        a("of somebody else", &["ECONNREFUSED", "EPERM"], &[Network, Landlock(6)], Without),
    ], &[]),
    tried(35, "unix-path", "a socket with a path", &[
        a("for everybody", NOTHING, &[Root], Without),
        a("/run/docker.sock", NOTHING, &[Root, User], Sibling),
        a("the control socket", NOTHING, &[Root, User], Sibling),
    ], &[]),
    tested(36, "proxy-deny", "a host that is not granted, or denied", "403, and a record", &[Daemon], &["egress::proxy_deny", "supervisor/tests/egress::row_proxy_deny"]),
    tested(37, "proxy-rebind", "a granted name at an address that is not public", "403, nothing is connected to", &[Daemon], &["egress::proxy_rebind", "supervisor/tests/egress::row_proxy_rebind"]),
    tested(38, "proxy-sni", "another server name in a tunnel", "closed, and a record", &[Daemon], &["egress::proxy_sni", "supervisor/tests/egress::row_proxy_sni"]),
    tested(39, "proxy-smuggle", "heads that can be read in two ways", "400, 405, 413 or 431", &[Daemon], &["egress::proxy_smuggle", "supervisor/tests/egress::row_proxy_smuggle"]),
    tested(40, "dns-exfil", "names as messages", "no resolver can be reached", &[Network], &["egress::dns_exfil"]),
    tried(41, "fork-bomb", "processes and threads without end", &[
        a("processes", AT_ITS_LIMIT, &[Cgroup, Limits], WithoutInTheGuest),
        a("threads", AT_ITS_LIMIT, &[Cgroup, Limits], WithoutInTheGuest),
    ], &["limits::fork_bomb", "limits::thread_bomb"]),
    tested(42, "double-fork", "sessions of its own that ignore SIGTERM", "gone when the plugin is", &[Processes, Cgroup],
        &["chaos::descendants_die_with_the_plugin", "supervisor/tests/process/life::grandchildren_that_ignore_sigterm_are_gone_after_the_kill"]),
    tested(43, "stop-self", "stop itself, or ignore SIGTERM", "it is killed", &[Daemon], &["chaos::it_stops_itself", "chaos::a_stubborn_plugin_is_stopped"]),
    tested(44, "mem-anon", "twice the memory that it may have", "killed, and said so (A); `ENOMEM`", &[Cgroup, Limits], &["limits::mem_anon"]),
    tried(45, "mlock, shm, mq, aio, timers, inotify", "kernel memory of every kind", &[
        a("mlock", &["ENOMEM", "EPERM", "EAGAIN"], &[Limits], WithoutInTheGuest),
        a("shmget", UNKNOWN, &[Filter], Otherwise),
        a("/dev/shm", &["ENOSPC", "EFBIG"], &[Root], Sibling),
        a("mq_open", &["EACCES", "EMFILE"], &[Landlock(1), Limits], WithoutInTheGuest),
        a("io_setup", UNKNOWN, &[Filter], Otherwise),
        a("timer_create", &["EAGAIN"], &[Limits], WithoutInTheGuest),
        a("inotify_init", &["EMFILE"], &[Limits, Kernel], Sibling),
    ], &["neighbours::each_resource_is_ones_own"]),
    only_on(tested(46, "cpu-spin", "more processor time than it may have", "it waits; an event says so", &[Cgroup], &["limits::cpu_spin"]), "A"),
    tried(47, "fd-exhaust", "descriptors without end", &[
        a("open", &["EMFILE"], &[Limits], WithoutInTheGuest),
    ], &["limits::what_is_met_is_told"]),
    tried(48, "disk-fill", "fill the disk", &[
        a("a file", &["EFBIG"], &[Limits], WithoutInTheGuest),
        a("a sparse file", &["EFBIG"], &[Limits], WithoutInTheGuest),
        a("/tmp", &["ENOSPC", "EFBIG"], &[Root], Sibling),
        a("files in /tmp", &["ENOSPC"], &[Root], Sibling),
    ], &["limits::disk_fill", "limits::names_without_end", "limits::files_in_memory_are_bounded"]),
    tried(49, "core-dump", "leave a core, or have the host's program for cores read it", &[
        a("setrlimit", FORBIDDEN, &[Filter], Without),
        a("prlimit64", FORBIDDEN, &[Filter], Without),
        a("abort", &["SIGABRT"], &[Limits], Sibling),
    ], &["tests/vm/cores::no_program_for_cores_is_run"]),
    tried(50, "memfd-exec", "execute a file in memory", &[
        a("fexecve", UNKNOWN, &[Filter], Without),
    ], &["fences::with_execute_code_programs_run"]),
    tried(51, "ld-so-exec", "execute what it wrote, by itself or by the loader", &[
        a("the loader", UNKNOWN, &[Filter, NoExec], Without),
        a("itself", UNKNOWN, &[Filter, NoExec, Landlock(1)], Without),
    ], &["isolation::who_may_execute_code_executes_programs_but_not_what_it_wrote", "fences::with_execute_code_programs_run"]),
    tested(52, "log-flood", "a gigabyte of log, NUL, escape sequences, no UTF-8, a line of 10 MiB", "bounded, escaped, and what was dropped is said; beyond so much a second it waits",
        &[Daemon], &["floods::a_gigabyte_of_log", "floods::nasty_log_lines", "floods::a_flood_is_read_no_faster_than_it_may_be"]),
    tried(53, "landlock-again", "confine itself further", &[
        a("one more", &["ok"], &[], Allowed),
        a("seventeen", &["E2BIG"], &[Kernel], Sibling),
    ], &[]),
    tried(54, "time", "set the clock", &[
        a("clock_settime", KILLED, &[Filter], Otherwise),
        a("settimeofday", KILLED, &[Filter], Otherwise),
    ], &[]),
    tested(55, "name-collide", "an id that is a path, a file of the kernel's, or none", "the package is refused", &[Daemon],
        &["supervisor/src/model/ids::every_wrong_plugin_id_is_told_what_is_wrong", "isolation::names_that_are_no_names"]),
    tested(56, "reload-swap", "exchange the program between the check and the start", "the verified file, or no start (`ESTALE`)", &[Launcher],
        &["supervisor/tests/process/confined::the_entry_point_is_the_verified_file_or_nothing", "life::a_process_runs_from_a_snapshot"]),
    tried(57, "sibling-data", "read another plugin's data", &[
        a("a file for everybody", NOTHING, &[Root, Landlock(1)], Without),
    ], &["isolation::a_siblings_data_do_not_exist"]),
    tried(58, "vsyscall/speculation", "the page of old programs; loosen what keeps speculation in bounds", &[
        a("vsyscall", &["ok", "SIGSEGV"], &[], Allowed),
        a("PR_GET_SPECULATION_CTRL", &["ok", "EINVAL", "ENODEV"], &[], Allowed),
        a("PR_SET_SPECULATION_CTRL", FORBIDDEN, &[Filter], Otherwise),
    ], &["supervisor/tests/seccomp/main::calls_by_the_page_of_old_programs_are_filtered"]),
    tested(59, "meltdown of layers", "all of this with each layer taken away in turn", "as the column says", &[],
        &["fences::each_fence_holds_alone_and_nothing_else_does"]),
];

/// "On the wire".
pub const WIRE: &[Mishap] = &[
    m("a frame of length 0", "wire::a_frame_of_length_zero"),
    m("a frame of the maximal length", "wire::unusual_but_allowed"),
    m("a byte more", "wire::a_frame_one_byte_too_long"),
    m("length 0xFFFFFFFF", "wire::a_frame_of_four_gigabytes"),
    m("a length, then the end", "wire::a_frame_cut_off"),
    m("one byte at a time, two frames at once", "wire::unusual_but_allowed"),
    m("a valid frame around invalid MessagePack", "wire::invalid_messagepack"),
    m("nesting of 1025", "wire::nesting_of_1025"),
    m("a map of 2^32 entries", "wire::a_map_of_two_to_the_32"),
    m("an extension type", "wire::an_extension_type"),
    m("a key twice", "wire::a_key_twice"),
    m("a string that is not UTF-8", "wire::a_string_that_is_not_utf8"),
    m("an answer with an unknown id", "wire::an_answer_to_no_call"),
    m("with a replayed one", "wire::an_answer_again_much_later"),
    m("with a foreign one", "wire::an_answer_to_an_odd_id"),
    m("a second terminal frame", "wire::a_second_terminal_frame"),
    m("data after the end of a stream", "wire::data_after_the_end_of_a_stream"),
    m("more data than the credit", "wire::data_beyond_the_credit"),
    m("an answer after cancel", "calls::an_answer_after_cancel"),
    m("hello twice", "starts::it_says_hello_twice"),
    m("late", "starts::it_is_ready_before_hello"),
    m("never", "starts::it_says_nothing"),
    m("with another version", "starts::it_speaks_another_version"),
    m("a plugin that never reads", "chaos::it_never_reads"),
    m("one that reads a byte a second", "chaos::it_reads_a_byte_a_second"),
];

/// "Chaos".
pub const CHAOS: &[Mishap] = &[
    m("SIGKILL of the plugin", "chaos::the_plugin_is_killed"),
    m("of its pid 1", "chaos::its_pid_1_is_killed"),
    m("of the launcher", "chaos::its_launcher_is_killed"),
    m("of the zygote that launchers are copies of", "chaos::the_zygote_is_killed"),
    m("of each of them while it starts", "chaos::they_are_killed_while_it_starts"),
    m("of each of them while it is frozen", "chaos::they_are_killed_while_it_is_frozen"),
    m("of the daemon", "chaos::the_daemon_is_killed_during_a_call"),
    m("EMFILE in the daemon", "chaos::the_daemon_is_out_of_descriptors"),
    m("ENOSPC", "exhaustion::no_room_for_a_snapshot"),
    m("EAGAIN on fork", "exhaustion::no_processes_for_a_plugin"),
    m("the clock jumps", "tests/vm/clock::the_clock_jumps"),
    m("ENOMEM in the daemon", "exhaustion::no_memory_for_the_daemon"),
    m("SIGSTOP of the plugin, of its pid 1 and of the launcher", "chaos::they_are_stopped"),
    m("SIGSTOP of the daemon", "chaos::the_daemon_stands_still"),
    m(
        "a queue of notifications overflows",
        "supervisor/src/api/unix/tests::a_follower_that_is_too_slow_is_told_what_it_missed",
    ),
    m("a thousand starts and stops", "cycles::starts_and_stops"),
    m("a thousand crashes", "cycles::crashes"),
];

const fn m(what: &'static str, test: &'static str) -> Mishap {
    Mishap { what, test }
}
