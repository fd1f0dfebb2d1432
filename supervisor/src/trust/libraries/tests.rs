//! Packages on a host that is made for the test: what their programs need is there or not.

use std::os::unix::fs::symlink;

use super::*;
use crate::model::check::{Severity, Verdict};
use crate::trust::elf::tests::Made;

struct Host(tempfile::TempDir);

const LOADER: &str = "/lib64/ld-linux.so.2";

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(host.at("usr/lib64")).unwrap();
        symlink("usr/lib64", host.at("lib64")).unwrap();
        for library in ["usr/lib64/ld-linux.so.2", "usr/lib64/libc.so.6", "usr/lib/odd/libodd.so", "opt/libopt.so"] {
            host.write(library, &Made::new(&[]));
        }
        host
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, made: &Made) {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, made.bytes()).unwrap();
    }

    /// What is found of `package/bin/run`.
    fn found_with(&self, program: &Made, checks: &Checks) -> Vec<Finding> {
        self.write("package/bin/run", &Made { interpreter: program.interpreter.or(Some(LOADER)), ..program.clone() });
        inspect(&self.at("package"), "bin/run", &System::beneath(self.0.path()), checks).unwrap()
    }

    fn found(&self, program: &Made) -> Vec<(Code, String)> {
        let findings = self.found_with(program, &Checks::default());
        findings.into_iter().map(|finding| (finding.code, format!("{} {}", finding.place, finding.detail))).collect()
    }

    /// The one finding, which has these words.
    #[track_caller]
    fn one(&self, program: &Made, code: Code, words: &str) {
        let found = self.found(program);
        assert!(matches!(&found[..], [(only, detail)] if *only == code && detail.contains(words)), "{found:?}");
    }
}

#[test]
fn what_a_program_needs_is_found_where_a_plugin_sees_it() {
    let host = Host::new();
    assert_eq!(host.found(&Made::new(&["libc.so.6", "ld-linux.so.2"])), []);
    assert_eq!(host.found(&Made::new(&["/usr/lib64/libc.so.6"])), []);
    host.one(
        &Made::new(&["libnone.so.3"]),
        Code::MissingLibrary,
        "bin/run needs the library libnone.so.3, which is neither",
    );
    // There, where no plugin sees it; and a link out of what is seen.
    host.one(&Made::new(&["/opt/libopt.so"]), Code::MissingLibrary, "/opt/libopt.so");
    symlink(host.at("opt/libopt.so"), host.at("usr/lib64/libopt.so")).unwrap();
    host.one(&Made::new(&["libopt.so"]), Code::MissingLibrary, "libopt.so");
    // Of another machine, or no library at all.
    fs::write(host.at("usr/lib64/libtext.so"), "INPUT ( libc.so.6 ) and some more").unwrap();
    host.one(&Made::new(&["libtext.so"]), Code::MissingLibrary, "libtext.so");
    let mut other = Made::new(&[]).bytes();
    other[18] = 3;
    fs::write(host.at("usr/lib64/libother.so"), other).unwrap();
    host.one(&Made::new(&["libother.so"]), Code::MissingLibrary, "libother.so");
    let named = |interpreter| Made { interpreter: Some(interpreter), ..Made::new(&["libc.so.6"]) };
    host.one(&named("/lib/ld-musl.so.1"), Code::InterpreterMissing, "bin/run names the loader /lib/ld-musl.so.1");
    host.one(&named("ld-linux.so.2"), Code::InterpreterMissing, "ld-linux.so.2");
    host.write("package/ld.so", &Made::new(&[]));
    assert_eq!(host.found(&named("/plugin/ld.so")), []);
}

/// Folders that only the list of the host knows, and that the loader of musl is told.
#[test]
fn the_lists_of_the_host_are_read() {
    let host = Host::new();
    let odd = Made::new(&["libodd.so"]);
    host.one(&odd, Code::MissingLibrary, "libodd.so");
    let mut cache = b"glibc-ld.so.cache1.1".to_vec();
    let name = b"libodd.so\0/usr/lib/odd/libodd.so\0";
    cache.extend(1_u32.to_le_bytes());
    cache.extend((name.len() as u32).to_le_bytes());
    cache.resize(48, 0);
    for number in [3_u32, 72, 82, 0, 0, 0] {
        cache.extend(number.to_le_bytes());
    }
    cache.extend(name);
    fs::create_dir_all(host.at("etc")).unwrap();
    fs::write(host.at("etc/ld.so.cache"), &cache).unwrap();
    assert_eq!(host.found(&odd), []);
    for length in 0..cache.len() {
        fs::write(host.at("etc/ld.so.cache"), &cache[..length]).unwrap();
        let _ = System::beneath(host.0.path());
    }
    fs::remove_file(host.at("etc/ld.so.cache")).unwrap();
    fs::write(host.at(OF_THE_MACHINE[1]), "/lib64:/usr/lib/odd\n").unwrap();
    assert_eq!(host.found(&odd), []);
}

#[test]
fn the_package_is_searched_by_origin_and_its_libraries_as_well() {
    let host = Host::new();
    let run = |runpath| Made { runpath: Some(runpath), ..Made::new(&["libown.so"]) };
    host.one(&run("$ORIGIN/../lib"), Code::MissingLibrary, "libown.so");
    host.write("package/lib/libown.so", &Made::new(&["libc.so.6"]));
    for list in ["$ORIGIN/../lib", "${ORIGIN}/../lib", "/plugin/lib", "$ORIGIN:$ORIGIN/../lib/"] {
        assert_eq!(host.found(&run(list)), [], "{list}");
    }
    host.one(&Made::new(&["libown.so"]), Code::MissingLibrary, "libown.so");
    assert_eq!(host.found(&Made::new(&["$ORIGIN/../lib/libown.so"])), []);
    // What a library of the package lacks is named with its place.
    host.write("package/lib/libown.so", &Made { stack: Some(7), ..Made::new(&["libnone.so", "libown.so"]) });
    let found = host.found(&run("$ORIGIN/../lib"));
    let places: Vec<_> = found.iter().map(|(code, detail)| (*code, detail.split(' ').next().unwrap())).collect();
    let own = "lib/libown.so";
    assert_eq!(places, [(Code::ExecutableStack, own), (Code::MissingLibrary, own), (Code::MissingLibrary, own)]);
    // DT_RPATH holds for what is needed in turn, DT_RUNPATH does not, and goes before the other.
    host.write("package/lib/libown.so", &Made::new(&["libtoo.so"]));
    host.write("package/lib/libtoo.so", &Made::new(&["libown.so"]));
    assert_eq!(host.found(&Made { rpath: Some("$ORIGIN/../lib"), ..Made::new(&["libown.so"]) }), []);
    host.one(&run("$ORIGIN/../lib"), Code::MissingLibrary, "lib/libown.so needs the library libtoo.so");
    let both = Made { rpath: Some("$ORIGIN/../lib"), runpath: Some("$ORIGIN"), ..Made::new(&["libown.so"]) };
    host.one(&both, Code::MissingLibrary, "bin/run needs the library libown.so");
    fs::write(host.at("package/lib/libown.so"), "text").unwrap();
    host.one(&run("$ORIGIN/../lib"), Code::Malformed, "lib/libown.so is too short for its header");
}

#[test]
fn libraries_are_looked_for_in_the_package_and_where_they_usually_are() {
    let host = Host::new();
    for list in [
        "/opt/lib",
        "/usr/lib64",
        "",
        "lib",
        ".",
        "$ORIGIN/../..",
        "$ORIGIN/../../../../..",
        "/plugin/../opt",
        "$LIB",
        "$ORIGIN/$LIB",
        "$ORIGINAL",
        "/data",
        "/pluginx",
    ] {
        host.one(&Made { runpath: Some(list), ..Made::new(&["libc.so.6"]) }, Code::ForeignRpath, &format!("{list:?}"));
        host.one(&Made { rpath: Some(list), ..Made::new(&["libc.so.6"]) }, Code::ForeignRpath, &format!("{list:?}"));
    }
    host.one(&Made { runpath: Some("$ORIGIN:"), ..Made::new(&["libc.so.6"]) }, Code::ForeignRpath, "\"\"");
}

#[test]
fn how_it_was_built_is_judged_by_the_configuration() {
    let host = Host::new();
    let plain = || Made::new(&["libc.so.6"]);
    host.one(&Made { stack: Some(7), ..plain() }, Code::ExecutableStack, "link it with -z noexecstack");
    host.one(&Made { stack: None, ..plain() }, Code::ExecutableStack, "does not say");
    host.one(&Made { tags: vec![(22, 0)], ..plain() }, Code::TextRelocations, "-fPIC");
    host.one(&Made { load: 7, ..plain() }, Code::WritableCode, "can be written and executed");
    let only = Checks { libraries: Some(vec!["libc.so.6".into(), "ld-*".into()]), ..Checks::default() };
    assert_eq!(host.found_with(&Made::new(&["libc.so.6", "ld-linux.so.2"]), &only), []);
    let only = Checks { libraries: Some(vec!["ld-*".into()]), ..Checks::default() };
    let found = host.found_with(&plain(), &only);
    assert_eq!((found.len(), found[0].code, found[0].severity), (1, Code::ForbiddenLibrary, Severity::Error));
    assert_eq!(
        serde_json::to_value(&found[0]).unwrap(),
        serde_json::json!({"code": "forbidden_library", "severity": "error", "where": "bin/run",
            "detail": "needs the library libc.so.6, which `checks.libraries` does not allow"})
    );
    // Its own libraries are pinned with the package.
    host.write("package/bin/libc.so.6", &Made::new(&[]));
    let own = Made { runpath: Some("$ORIGIN"), ..plain() };
    assert_eq!(host.found_with(&own, &only), []);
    let defaults = Checks::default();
    for code in Code::ALL {
        let wanted = match code {
            Code::Static | Code::UnlistedInterpreter => Verdict::Allow,
            Code::WritableCode => Verdict::Warn,
            _ => Verdict::Refuse,
        };
        assert_eq!(defaults.verdict(code), wanted, "{code}");
        let said = Checks { verdicts: vec![(code, Verdict::Warn)], ..Checks::default() };
        assert_eq!(said.verdict(code), Verdict::Warn, "{code}");
    }
    fs::write(host.at("package/bin/alone"), Made { stack: Some(6), load: 5, ..Made::default() }.bytes()).unwrap();
    let found = inspect(&host.at("package"), "bin/alone", &System::beneath(host.0.path()), &defaults).unwrap();
    assert_eq!(found.iter().map(|finding| finding.code).collect::<Vec<_>>(), [Code::Static]);
}

/// A package in which each library needs the next is looked at up to a bound.
#[test]
fn there_is_an_end_to_what_is_looked_at() {
    let host = Host::new();
    let names: Vec<&'static str> =
        (0..300).map(|number| &*Box::leak(format!("lib{number}.so").into_boxed_str())).collect();
    for pair in names.windows(2) {
        host.write(&format!("package/bin/{}", pair[0]), &Made { runpath: Some("$ORIGIN"), ..Made::new(&[pair[1]]) });
    }
    let first = Made { runpath: Some("$ORIGIN"), ..Made::new(&["lib0.so"]) };
    host.one(&first, Code::Malformed, "more than 256 libraries of its package");
}

/// What a manifest names is looked for where plugins find the host's libraries, and nowhere else.
#[test]
fn what_the_manifest_names_has_to_be_there() {
    let host = Host::new();
    let named = |name: &str, checks: &Checks| {
        let found = declared(&[name.to_owned()], &System::beneath(host.0.path()), checks).unwrap();
        found
            .into_iter()
            .map(|finding| (finding.code, format!("{} {}", finding.place, finding.detail)))
            .collect::<Vec<_>>()
    };
    assert_eq!(named("libc.so.6", &Checks::default()), []);
    for name in ["libnone.so.1", "libopt.so"] {
        let told = format!("plugin.json needs the library {name}, which is not in /usr");
        assert_eq!(named(name, &Checks::default()), [(Code::MissingLibrary, told)]);
    }
    let few = Checks { libraries: Some(vec!["libm.so.6".to_owned()]), ..Checks::default() };
    let told = "plugin.json needs the library libc.so.6, which `checks.libraries` does not allow".to_owned();
    assert_eq!(named("libc.so.6", &few), [(Code::ForbiddenLibrary, told)]);
}
