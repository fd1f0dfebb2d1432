use std::collections::BTreeSet;
use std::fmt::Write as _;

use proptest::prelude::*;

use super::emit::{INSTRUCTIONS_MAX, TooLong, program};
use super::evaluate::{Data, Fault, run};
use super::numbers::{self, ARCH_I386, ARCH_X86_64, Abi, X32_BIT, abi_of};
use super::policy::{Action, Case, Checks, Condition, Decisions, Leaf, Policy, Test, Width};
use super::*;

const BASE: Profile = Profile::ALL[0];

/// `AUDIT_ARCH_AARCH64`.
const ARCH_AARCH64: u32 = 0xc000_00b7;

const EPERM: Action = Action::Errno(1);
const EINVAL: Action = Action::Errno(22);
const ENOSYS: Action = Action::Errno(38);
const ENOPROTOOPT: Action = Action::Errno(92);
const EPROTONOSUPPORT: Action = Action::Errno(93);
const EAFNOSUPPORT: Action = Action::Errno(97);

fn number(name: &str) -> u32 {
    numbers::number(name).unwrap_or_else(|| panic!("{name} has a number"))
}

/// What the compiled program answers.
fn answer(profile: &Profile, name: &str, arguments: &[u64]) -> Action {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    run(&compile(profile), &Data::new(number(name), all)).unwrap()
}

/// A name for files: `base`, `execute`, `trace`, `execute-trace`.
fn name_of(profile: &Profile) -> &'static str {
    ["base", "execute", "trace", "execute-trace"][Profile::ALL.iter().position(|one| one == profile).unwrap()]
}

// ---------------------------------------------------------------------------------------------------------------------
// The rules.

#[test]
fn the_shipped_rules_are_read() {
    Policy::shipped().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn every_profile_has_a_policy_that_is_written_down() {
    for profile in Profile::ALL {
        insta::assert_snapshot!(
            format!("policy-{}", name_of(&profile)),
            Policy::shipped().unwrap().decisions(&profile)
        );
    }
}

/// Each number of each way to make a call, as the compiled programs answer it; one row for neighbours that are answered alike.
/// What depends on arguments is answered for all zeros and for all ones, in this order.
#[test]
fn every_number_is_answered_as_the_table_says() {
    let programs = Profile::ALL.map(|profile| compile(&profile));
    let mut table = String::new();
    for (way, arch, mark) in [
        ("x86_64", ARCH_X86_64, 0),
        ("x32", ARCH_X86_64, X32_BIT),
        ("i386", ARCH_I386, 0),
        ("aarch64", ARCH_AARCH64, 0),
        ("no architecture", 0, 0),
    ] {
        let mut rows: Vec<(u32, u32, String)> = Vec::new();
        for number in 0..=1023 {
            let name = abi_of(arch, number | mark).and_then(|(abi, number)| numbers::name(abi, number));
            let answers = programs.each_ref().map(|program| {
                let of = |arguments| {
                    run(program, &Data { number: number | mark, arch, instruction_pointer: 0, arguments }).unwrap()
                };
                let [zeros, ones] = [of([0; 6]), of([u64::MAX; 6])];
                if zeros == ones { zeros.to_string() } else { format!("{zeros}/{ones}") }
            });
            // Names make a row each, but only where there is something to tell them apart.
            let name = if way == "x86_64" { name.unwrap_or("-") } else { "any" };
            let row = format!("{name} {}", answers.join(" "));
            match rows.last_mut() {
                Some((_, last, text)) if *text == row => *last = number,
                _ => rows.push((number, number, row)),
            }
        }
        for (first, last, row) in rows {
            let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
            writeln!(table, "{way} {range} {row}").unwrap();
        }
    }
    let heads = Profile::ALL.map(|profile| name_of(&profile)).join(" ");
    insta::assert_snapshot!("every-number", format!("way numbers name {heads}\n{table}"));
}

#[test]
fn what_kills_is_short_and_listed() {
    let expected = [
        "bpf",
        "clock_settime",
        "delete_module",
        "finit_module",
        "fsconfig",
        "fsmount",
        "fsopen",
        "fspick",
        "init_module",
        "ioperm",
        "iopl",
        "kexec_file_load",
        "kexec_load",
        "mount",
        "mount_setattr",
        "move_mount",
        "open_tree",
        "open_tree_attr",
        "pivot_root",
        "ptrace",
        "reboot",
        "setns",
        "settimeofday",
        "swapoff",
        "swapon",
        "umount2",
        "userfaultfd",
    ];
    let page = include_str!("../../../../docs/security.md");
    let listed = page.split("Killed: ").nth(1).unwrap().split("\n\n").next().unwrap();
    assert_eq!(listed.split('`').skip(1).step_by(2).collect::<Vec<_>>(), expected, "docs/security.md");
    for profile in Profile::ALL {
        let killed = |call: &&str| answer(&profile, call, &[]) == Action::Kill;
        let killed: BTreeSet<&str> = numbers::calls(Abi::X86_64).values().copied().filter(killed).collect();
        assert_eq!(killed, expected.into());
    }
}

#[test]
fn arguments_decide_where_the_rules_say_so() {
    const ABOVE: u64 = 0xdead_beef_0000_0000;
    let cases: &[(&str, &[u64], Action)] = &[
        // A thread of the C library; a fork; each namespace; garbage above what the kernel looks at hides nothing.
        ("clone", &[0x003d_0f00], Action::Allow),
        ("clone", &[0x0120_0011], Action::Allow),
        ("clone", &[0x0002_0000 | 17], EPERM),
        ("clone", &[0x0200_0000 | 17], EPERM),
        ("clone", &[0x0400_0000 | 17], EPERM),
        ("clone", &[0x0800_0000 | 17], EPERM),
        ("clone", &[0x1000_0000 | 17], EPERM),
        ("clone", &[0x2000_0000 | 17], EPERM),
        ("clone", &[0x4000_0000 | 17], EPERM),
        ("clone", &[ABOVE | 0x1000_0011], EPERM),
        ("clone", &[ABOVE | 17], Action::Allow),
        // Local sockets of all types; TCP and UDP with flags, named or by default.
        ("socket", &[1, 1, 0], Action::Allow),
        ("socket", &[1, 0x80802, 0], Action::Allow),
        ("socket", &[2, 0x80001, 0], Action::Allow),
        ("socket", &[10, 1, 6], Action::Allow),
        ("socket", &[2, 2, 17], Action::Allow),
        ("socket", &[10, 0x802, 0], Action::Allow),
        // MPTCP, SCTP, SMC, ping, UDP-Lite, and TCP as a datagram.
        ("socket", &[2, 1, 262], EPROTONOSUPPORT),
        ("socket", &[10, 0x80801, 262], EPROTONOSUPPORT),
        ("socket", &[2, 1, ABOVE | 262], EPROTONOSUPPORT),
        ("socket", &[2, 1, 132], EPROTONOSUPPORT),
        ("socket", &[2, 5, 132], EPROTONOSUPPORT),
        ("socket", &[2, 1, 256], EPROTONOSUPPORT),
        ("socket", &[2, 2, 1], EPROTONOSUPPORT),
        ("socket", &[2, 2, 136], EPROTONOSUPPORT),
        ("socket", &[2, 2, 6], EPROTONOSUPPORT),
        // Raw, packet by either name, other netlinks, other families.
        ("socket", &[2, 3, 255], EPERM),
        ("socket", &[10, 0x80003, 58], EPERM),
        ("socket", &[2, 10, 3], EPERM),
        ("socket", &[17, 3, 0x300], EPERM),
        ("socket", &[16, 3, 0], Action::Allow),
        ("socket", &[16, 0x80003, 12], EPROTONOSUPPORT),
        ("socket", &[40, 1, 0], EAFNOSUPPORT),
        ("socket", &[38, 5, 0], EAFNOSUPPORT),
        ("socket", &[0, 1, 0], EAFNOSUPPORT),
        ("socket", &[ABOVE | 40, 1, 0], EAFNOSUPPORT),
        ("socketpair", &[1, 1, 0], Action::Allow),
        ("socketpair", &[2, 1, 0], EAFNOSUPPORT),
        ("setsockopt", &[3, 6, 1], Action::Allow),
        ("setsockopt", &[3, 1, 31], Action::Allow),
        ("setsockopt", &[3, 6, 31], ENOPROTOOPT),
        // FIONBIO, TCGETS, TIOCGWINSZ; TIOCSTI, also with garbage above; TIOCSCTTY; the flags and project of a file.
        ("ioctl", &[0, 0x5421], Action::Allow),
        ("ioctl", &[0, 0x5401], Action::Allow),
        ("ioctl", &[0, 0x5413], Action::Allow),
        ("ioctl", &[0, 0x5412], EPERM),
        ("ioctl", &[0, 0x1_0000_5412], EPERM),
        ("ioctl", &[0, 0x541c], EPERM),
        ("ioctl", &[0, 0x540e], EPERM),
        ("ioctl", &[0, 0x4008_6602], EPERM),
        ("ioctl", &[0, 0x401c_5820], EPERM),
        // Names and no_new_privs; memory map, debugger, secure bits, speculation; what no kernel knows.
        ("prctl", &[15], Action::Allow),
        ("prctl", &[38, 1], Action::Allow),
        ("prctl", &[0x5356_4d41, 0], Action::Allow),
        ("prctl", &[52], Action::Allow),
        ("prctl", &[53], EPERM),
        ("prctl", &[35, 1], EPERM),
        ("prctl", &[ABOVE | 35, 1], EPERM),
        ("prctl", &[0x5961_6d61], EPERM),
        ("prctl", &[28], EPERM),
        ("prctl", &[9999], EINVAL),
        ("arch_prctl", &[0x1002], Action::Allow),
        ("arch_prctl", &[0x3001], EINVAL),
        ("arch_prctl", &[0x1012], EINVAL),
        ("personality", &[0xffff_ffff], Action::Allow),
        ("personality", &[u64::MAX], Action::Allow),
        ("personality", &[0], Action::Allow),
        ("personality", &[0x0004_0000], EPERM),
        ("personality", &[0x0040_0000], EPERM),
        // A filter of its own, in one thread and in all; with a listener.
        ("seccomp", &[1, 0], Action::Allow),
        ("seccomp", &[1, 1], Action::Allow),
        ("seccomp", &[1, 8], EPERM),
        ("seccomp", &[1, ABOVE | 0x19], EPERM),
        ("prlimit64", &[0, 7], Action::Allow),
        ("prlimit64", &[1, 7], EPERM),
        // The limit of cores is looked at and not changed.
        ("prlimit64", &[0, 4, 0], Action::Allow),
        ("prlimit64", &[0, 4, 0x7fff_0000], EPERM),
        ("prlimit64", &[0, 4, 0x7fff_0000_0000_0000], EPERM),
        ("prlimit64", &[1, 4, 0], EPERM),
        ("setrlimit", &[7], Action::Allow),
        ("setrlimit", &[4], EPERM),
        ("setrlimit", &[ABOVE | 4], EPERM),
        // Modes.
        ("chmod", &[0, 0o755], Action::Allow),
        ("chmod", &[0, 0o4755], EPERM),
        ("fchmod", &[0, 0o2755], EPERM),
        ("fchmodat", &[0, 0, 0o1777], Action::Allow),
        ("fchmodat", &[0, 0, 0o4000], EPERM),
        ("fchmodat2", &[0, 0, 0o6000], EPERM),
        ("creat", &[0, 0o644], Action::Allow),
        ("creat", &[0, 0o4644], EPERM),
        ("mkdir", &[0, 0o2755], EPERM),
        ("mkdirat", &[0, 0, 0o2755], EPERM),
        ("mkdirat", &[0, 0, 0o755], Action::Allow),
        ("open", &[0, 0, u64::MAX], Action::Allow),
        ("open", &[0, 0o100, 0o644], Action::Allow),
        ("open", &[0, 0o100, 0o4755], EPERM),
        ("openat", &[0, 0, 0, u64::MAX], Action::Allow),
        ("openat", &[0, 0, 0o101, 0o4755], EPERM),
        ("openat", &[0, 0, 0o20_200_000, 0o4755], EPERM),
        ("openat", &[0, 0, 0o200_000, 0o4755], Action::Allow),
        ("openat", &[0, 0, 0o101, 0o666], Action::Allow),
        ("mknod", &[0, 0o010_644], Action::Allow),
        ("mknod", &[0, 0o140_644], Action::Allow),
        ("mknod", &[0, 0o020_644], EPERM),
        ("mknod", &[0, 0o060_644], EPERM),
        ("mknod", &[0, 0o104_644], EPERM),
        ("mknodat", &[0, 0, 0o020_644], EPERM),
        ("mknodat", &[0, 0, 0o060_644], EPERM),
        ("mknodat", &[0, 0, 0o010_644], Action::Allow),
    ];
    for (name, arguments, expected) in cases {
        assert_eq!(answer(&BASE, name, arguments), *expected, "{name}({arguments:x?})");
        let traced = match expected {
            Action::Errno(_) => Action::Notify,
            other => *other,
        };
        assert_eq!(answer(&Profile::ALL[2], name, arguments), traced, "{name}({arguments:x?}), traced");
    }
    // Every rule that looks at arguments has a row above.
    let rules = Policy::shipped().unwrap().decisions(&BASE);
    for (from, leaf) in rules.ranges() {
        let name = numbers::name(Abi::X86_64, *from);
        let checked = matches!(leaf, Leaf::Checked(_));
        assert!(!checked || cases.iter().any(|(case, ..)| Some(*case) == name), "{name:?} is nowhere above");
    }
}

/// Of all families, types and protocols, exactly these make a socket.
#[test]
fn sockets_of_few_kinds_are_made() {
    let program = compile(&BASE);
    let socket = number("socket");
    let mut made = BTreeSet::new();
    for (family, kind, protocol) in
        (0..64).flat_map(|family| (0..16).flat_map(move |kind| (0..=263).map(move |protocol| (family, kind, protocol))))
    {
        if run(&program, &Data::new(socket, [family, kind, protocol, 0, 0, 0])) == Ok(Action::Allow) {
            // Local sockets and route netlink leave it to the kernel what else there is.
            made.insert(match family {
                1 => (1, 0, 0),
                16 => (16, 0, protocol),
                _ => (family, kind, protocol),
            });
        }
    }
    let inet = |family| [(family, 1, 0), (family, 1, 6), (family, 2, 0), (family, 2, 17)];
    let expected: BTreeSet<_> = inet(2).into_iter().chain(inet(10)).chain([(1, 0, 0), (16, 0, 0)]).collect();
    assert_eq!(made, expected);
}

#[test]
fn a_permission_and_tracing_change_who_is_asked() {
    let [base, execute, trace, both] = Profile::ALL;
    for call in ["execve", "execveat"] {
        let answers = Profile::ALL.map(|profile| answer(&profile, call, &[]));
        assert_eq!(answers, [Action::Notify, Action::Allow, Action::Notify, Action::Allow]);
        assert_eq!(allowed_by(number(call)), Some(Permission::ExecuteCode));
    }
    for (call, errno) in [("unshare", EPERM), ("clone3", ENOSYS), ("io_uring_setup", ENOSYS), ("keyctl", EPERM)] {
        let answers = Profile::ALL.map(|profile| answer(&profile, call, &[]));
        assert_eq!(answers, [errno, errno, Action::Notify, Action::Notify]);
        assert_eq!(decide(&base, &Data::new(number(call), [0; 6])), errno);
        assert_eq!(allowed_by(number(call)), None);
        assert!(!reason(number(call)).is_empty());
    }
    assert_eq!(Profile::ALL.map(|profile| profile.notifies()), [true, false, true, true]);
    assert_eq!((base.execution, execute.execution), (trace.execution, both.execution));
    assert_eq!(Permission::ExecuteCode.as_str(), "execute_code");
    // Numbers beyond the table have no rule, but an answer.
    assert_eq!(decide(&base, &Data::new(numbers::highest_known() + 1, [0; 6])), ENOSYS);
    assert!(reason(numbers::highest_known() + 1).contains("newer"));
}

#[test]
fn a_broken_rule_is_an_error_with_its_place() {
    let defaults = r#"
        known = { action = "EPERM", reason = "r" }
        unknown = { action = "ENOSYS", reason = "r" }
        foreign = { action = "kill", reason = "r" }
        x32 = { action = "kill", reason = "r" }
    "#;
    let read = |rules: &str, defaults: &str| {
        Policy::parse(&[("rules", rules)], ("defaults", defaults), ("constants", "SOME = 3\n")).map(|_| ())
    };
    // Each in its own line, after two others.
    let rule = |text: &str| format!("[[rule]]\nreason = \"r\"\n{text}\n");
    let case = |text: &str| rule(&format!("calls = [\"read\"]\naction = \"allow\"\ncase = [{text}]"));
    let when = |text: &str| case(&format!("{{ when = [{{ {text} }}], action = \"EPERM\" }}"));
    for good in [
        rule("calls = [\"read\"]\naction = \"EACCES\""),
        when("argument = 5, is = [\"SOME\", 0]"),
        when("argument = 0, mask = 7, is = [\"SOME\"], width = 64"),
        when("argument = 0, any = [0x1_0000_0000], width = 64"),
    ] {
        assert_eq!(read(&good, defaults), Ok(()), "{good}");
    }
    for (broken, line, problem) in [
        (rule("calls = [\"read\",\n\"opnat\"]\naction = \"allow\""), 4, "no system call has the name `opnat`"),
        (rule("calls = [\"read\", \"read\"]\naction = \"allow\""), 3, "`read` has a rule already"),
        (rule("calls = []\naction = \"allow\""), 1, "a rule without calls is none"),
        (rule("calls = [\"read\"]\naction = \"alow\""), 4, "`alow` is no action: allow, kill, notify, EACCES"),
        (rule("calls = [\"read\"]\naction = \"allow\"\nwithout = \"notify\""), 1, "go together"),
        (
            rule("calls = [\"read\"]\naction = \"allow\"\npermission = \"fly\"\nwithout = \"notify\""),
            5,
            "unknown variant `fly`",
        ),
        (rule("calls = [\"read\"]\naction = \"allow\"\nother = 1"), 5, "unknown field `other`"),
        ("[[rule]]\ncalls = [\"read\"]\naction = \"allow\"\nreason = \" \"\n".to_owned(), 4, "every rule says why"),
        ("[[rule]]\ncalls = [\"read\"]\naction = \"allow\"\n".to_owned(), 1, "missing field `reason`"),
        ("[[rule]\n".to_owned(), 1, ""),
        (case("{ when = [], action = \"EPERM\" }"), 5, "a case without a condition"),
        (when("argument = 6, is = [1]"), 5, "from 0 to 5"),
        (when("argument = 0, is = [1], width = 16"), 5, "`width` is 32 or 64"),
        (when("argument = 0, is = []"), 5, "an empty list"),
        (when("argument = 0, any = []"), 5, "an empty list"),
        (when("argument = 0, any = [0]"), 5, "no bits"),
        (when("argument = 0"), 5, "either `is`"),
        (when("argument = 0, is = [1], any = [1]"), 5, "either `is`"),
        (when("argument = 0, any = [1], mask = 1"), 5, "either `is`"),
        (when("argument = 0, is = [\"OTHER\"]"), 5, "no number for `OTHER`"),
        (when("argument = 0, is = [0x1_0000_0000]"), 5, "bits that are not looked at"),
        (when("argument = 0, any = [0x1_0000_0000]"), 5, "bits that are not looked at"),
        (when("argument = 0, mask = 6, is = [\"SOME\"]"), 5, "bits that are not looked at"),
    ] {
        let error = read(&broken, defaults).expect_err(&broken);
        assert_eq!((error.file.as_str(), error.line), ("rules", line), "{error}\n{broken}");
        assert!(error.problem.contains(problem), "{error}\n{broken}");
    }
    let error = read("rule = []", &defaults.replace("ENOSYS", "E")).unwrap_err();
    assert_eq!((error.file.as_str(), error.line), ("defaults", 3), "{error}");
    assert_eq!(error.to_string().split(": ").next(), Some("defaults, line 3"));
}

#[test]
fn every_constant_is_used() {
    let constants: toml::Table = include_str!("../../../../config/seccomp/constants.toml").parse().unwrap();
    let rules = include_str!("../../../../config/seccomp/checked.toml");
    for name in constants.keys() {
        assert!(rules.contains(&format!("\"{name}\"")), "{name} is used nowhere");
    }
}

/// The tables hold what the kernel's headers on this machine say, and what is newer beyond.
#[test]
fn the_tables_of_numbers_agree_with_the_headers() {
    for (abi, header) in [(Abi::X86_64, "unistd_64.h"), (Abi::I386, "unistd_32.h"), (Abi::X32, "unistd_x32.h")] {
        let calls = numbers::calls(abi);
        let names: BTreeSet<_> = calls.values().collect();
        assert_eq!(names.len(), calls.len(), "{abi:?} has a name twice");
        let found = ["/usr/include/x86_64-linux-gnu/asm", "/usr/include/asm"]
            .iter()
            .find_map(|folder| std::fs::read_to_string(format!("{folder}/{header}")).ok());
        let Some(text) = found else {
            println!(
                "SKIPPED: the kernel's headers (linux-libc-dev) are needed to compare the numbers of system calls"
            );
            continue;
        };
        let mut compared = 0;
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("#define __NR_") else { continue };
            let mut words =
                rest.split(|c: char| c.is_whitespace() || "()+".contains(c)).filter(|word| !word.is_empty());
            let name = words.next().unwrap();
            let number: u32 = words.next_back().unwrap().parse().unwrap();
            // Newer headers than the table may know more.
            if number <= numbers::highest_known() || abi == Abi::X32 && number < 548 {
                assert_eq!(calls.get(&number), Some(&name), "{abi:?} {number}");
                compared += 1;
            }
        }
        assert!(compared > 300, "{header} has more than {compared} calls");
    }
    assert_eq!(numbers::highest_known(), number("file_setattr"));
    assert_eq!(numbers::highest_known(), 469);
    assert_eq!(abi_of(ARCH_X86_64, X32_BIT | 39), Some((Abi::X32, 39)));
    assert_eq!(abi_of(ARCH_I386, 1), Some((Abi::I386, 1)));
    assert_eq!(abi_of(ARCH_X86_64, 1), Some((Abi::X86_64, 1)));
    assert_eq!(abi_of(ARCH_AARCH64, 1), None);
    assert_eq!(numbers::name(Abi::I386, 11), Some("execve"));
    assert_eq!(numbers::name(Abi::X32, 520), Some("execve"));
}

// ---------------------------------------------------------------------------------------------------------------------
// The program.

#[test]
fn programs_are_small() {
    for profile in Profile::ALL {
        let decisions = Policy::shipped().unwrap().decisions(&profile);
        let program = program(&decisions).unwrap();
        println!(
            "{}: {} instructions for {} ranges",
            name_of(&profile),
            program.instructions(),
            decisions.ranges().len()
        );
        assert_eq!(program.bytes(), compile(&profile));
        assert!(program.instructions() < INSTRUCTIONS_MAX / 4, "{}", program.instructions());
    }
}

#[test]
fn too_long_a_program_is_refused() {
    let ranges = (0..5000).map(|number| (number, Leaf::Always(if number % 2 == 0 { EPERM } else { Action::Allow })));
    let decisions = Decisions::new(Action::Kill, Action::Kill, ranges);
    let Err(TooLong(length)) = program(&decisions) else { panic!("5000 ranges cannot fit") };
    assert!(length > INSTRUCTIONS_MAX);
}

/// Both ways of a condition lead far away, at every distance around what a jump can span.
#[test]
fn far_answers_are_reached_from_every_distance() {
    let checked = |argument, values: Vec<u64>| {
        let test = Test::Is { mask: u64::MAX, values };
        let when = vec![Condition { argument, width: Width::Lower, test }];
        Leaf::Checked(Checks { cases: vec![Case { when, action: Action::Kill }], otherwise: Action::Notify })
    };
    let (one, other) = (checked(0, vec![1]), checked(1, vec![1]));
    for values in 1..=200 {
        // The same two leaves at the bottom and at the top, and more and more in between.
        let between = (3..148).map(|number| Leaf::Always(if number % 2 == 0 { EPERM } else { Action::Allow }));
        let leaves = [one.clone(), other.clone(), checked(2, (0..values).collect())].into_iter();
        let leaves = leaves.chain(between).chain([other.clone(), one.clone()]);
        let decisions = Decisions::new(EPERM, EINVAL, (0..).zip(leaves));
        let bytes = program(&decisions).unwrap().bytes();
        for number in [0, 1, 2, 148, 149] {
            for arguments in [[0; 6], [1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 7, 0, 0, 0]] {
                let call = Data::new(number, arguments);
                assert_eq!(run(&bytes, &call), Ok(decisions.decide(&call)), "{call:?} with {values} values");
            }
        }
    }
}

#[test]
fn a_program_that_is_none_is_a_fault() {
    let data = Data::new(0, [0; 6]);
    let instruction = |code: u16, yes: u8, no: u8, k: u32| {
        let mut bytes = code.to_le_bytes().to_vec();
        bytes.extend([yes, no]);
        bytes.extend(k.to_le_bytes());
        bytes
    };
    let ret = instruction(6, 0, 0, 0x7fff_0000);
    assert_eq!(run(&ret, &data), Ok(Action::Allow));
    assert_eq!(run(&ret[..7], &data), Err(Fault::Torn));
    assert_eq!(run(&[], &data), Err(Fault::PastTheEnd(0)));
    assert_eq!(run(&instruction(5, 0, 0, 7), &data), Err(Fault::PastTheEnd(8)));
    assert_eq!(run(&instruction(0x16, 0, 0, 0), &data), Err(Fault::Unknown(0)));
    assert_eq!(run(&instruction(0x20, 0, 0, 2), &data), Err(Fault::NoSuchWord(0)));
    assert_eq!(run(&instruction(0x20, 0, 0, 64), &data), Err(Fault::NoSuchWord(0)));
    // SECCOMP_RET_LOG is no action of ours.
    assert_eq!(run(&instruction(6, 0, 0, 0x7ffc_0000), &data), Err(Fault::NoSuchAction(0)));
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![Just(Action::Allow), Just(Action::Kill), Just(Action::Notify), (0_u16..4096).prop_map(Action::Errno),]
}

/// Values in which upper and lower half matter and that meet each other often.
fn any_value() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..8,
        any::<u64>(),
        (0_u64..4, 0_u64..4).prop_map(|(upper, lower)| upper << 32 | lower),
        (0_u32..64).prop_map(|bit| 1 << bit),
    ]
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let test = prop_oneof![
        any_value().prop_map(|bits| (0, vec![], bits)),
        (prop_oneof![Just(u64::MAX), any_value()], prop::collection::vec(any_value(), 1..5))
            .prop_map(|(mask, values)| (mask, values, 0)),
        // More values than one jump spans.
        prop::collection::vec(any_value(), 250..300).prop_map(|values| (u64::MAX, values, 0)),
    ];
    (0_u8..6, any::<bool>(), test).prop_map(|(argument, whole, (mask, values, bits))| {
        let (width, ones) = if whole { (Width::Whole, u64::MAX) } else { (Width::Lower, u64::from(u32::MAX)) };
        let test = if values.is_empty() {
            Test::Any(bits & ones)
        } else {
            // As the rules promise: a value has no bit that is not looked at.
            Test::Is { mask, values: values.into_iter().map(|value| value & mask & ones).collect() }
        };
        Condition { argument, width, test }
    })
}

fn any_leaf() -> impl Strategy<Value = Leaf> {
    let case =
        (prop::collection::vec(any_condition(), 1..3), any_action()).prop_map(|(when, action)| Case { when, action });
    prop_oneof![
        8 => any_action().prop_map(Leaf::Always),
        1 => (prop::collection::vec(case, 1..4), any_action())
            .prop_map(|(cases, otherwise)| Leaf::Checked(Checks { cases, otherwise })),
    ]
}

fn any_decisions() -> impl Strategy<Value = Decisions> {
    let starts = prop::collection::btree_set(prop_oneof![3 => 1..600_u32, 1 => 1..X32_BIT], 0..300);
    // Many leaves, or a few that are shared by ranges far apart.
    let leaves = prop_oneof![prop::collection::vec(any_leaf(), 200), prop::collection::vec(any_leaf(), 3..12)];
    (any_action(), any_action(), starts, leaves, any::<u64>()).prop_map(|(foreign, x32, starts, leaves, seed)| {
        let mut random = fastrand::Rng::with_seed(seed);
        let leaf = |start| (start, leaves[random.usize(..leaves.len())].clone());
        Decisions::new(foreign, x32, [0].into_iter().chain(starts).map(leaf))
    })
}

/// Calls at and around every border, with arguments that meet what is looked for, or miss it by little.
fn calls_near(decisions: &Decisions, seed: u64) -> Vec<Data> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut calls = Vec::new();
    for (from, leaf) in decisions.ranges() {
        let mut values = vec![0, 1, u64::MAX, u64::from(u32::MAX), 1 << 32];
        if let Leaf::Checked(checks) = leaf {
            for condition in checks.cases.iter().flat_map(|case| &case.when) {
                match &condition.test {
                    Test::Any(bits) => values.push(*bits),
                    Test::Is { values: wanted, .. } => values.extend(wanted),
                }
            }
        }
        let rounds = if matches!(leaf, Leaf::Checked(_)) { 40 } else { 1 };
        for _ in 0..rounds {
            let mut argument = || {
                let value = values[random.usize(..values.len())];
                match random.u8(..4) {
                    0 => value ^ 1 << random.u8(..64),
                    1 => value ^ random.u64(..) << 32,
                    _ => value,
                }
            };
            let arguments = std::array::from_fn(|_| argument());
            for number in [*from, from.wrapping_sub(1), from + 1, random.u32(..), from | X32_BIT] {
                for arch in [ARCH_X86_64, ARCH_I386] {
                    calls.push(Data { number, arch, instruction_pointer: random.u64(..), arguments });
                }
            }
        }
    }
    calls
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_program_answers_as_its_decisions_read(decisions in any_decisions(), seed: u64) {
        match program(&decisions) {
            Ok(program) => {
                let bytes = program.bytes();
                for call in calls_near(&decisions, seed) {
                    prop_assert_eq!(run(&bytes, &call), Ok(decisions.decide(&call)), "{:x?}", call);
                }
            }
            Err(TooLong(length)) => prop_assert!(length > INSTRUCTIONS_MAX),
        }
    }
}

#[test]
fn the_shipped_programs_answer_as_their_decisions_read() {
    let policy = Policy::shipped().unwrap();
    for profile in Profile::ALL {
        let decisions = policy.decisions(&profile);
        let bytes = compile(&profile);
        for call in calls_near(&decisions, 7) {
            assert_eq!(run(&bytes, &call), Ok(decisions.decide(&call)), "{call:x?}");
        }
    }
}
