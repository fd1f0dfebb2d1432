//! Starts that fail.

use std::{
    ffi::CString,
    fs::File,
    io::Write,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    process::Stdio,
};

use libc::{EACCES, ENOENT, ENOEXEC, EPERM, ETXTBSY};
use palisaded::process::{Child, Exit, ImageError, Launch, LauncherImage, Limit, Resource, Step, spawn};
use rustix::{fs::OFlags, process::getrlimit};

use crate::harness::*;

/// A child that does not start, with the step that failed and words that its sentence has.
async fn expect_failure(place: &Place, child: Child, step: Step, errno: i32, words: &[&str]) {
    let failure = failure(place.last_report(child).await);
    assert_eq!((failure.step, failure.errno), (step, errno), "{failure}");
    for word in words {
        assert!(failure.message.contains(word), "no {word:?}: {failure}");
    }
}

#[test]
fn a_file_that_cannot_be_executed_says_why() {
    each_enclosure(|place| async move {
        let folder = tempfile::tempdir().unwrap();
        let program_bytes = std::fs::read("/bin/true").unwrap();
        let make = |name: &str, bytes: &[u8], mode: u32| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            path
        };
        let mut foreign = program_bytes.clone();
        // The machine of an ELF header: one that this is not.
        foreign[18..20].copy_from_slice(&[0xF3, 0x7F]);
        let homeless = replaced(&program_bytes, b"/ld-linux", b"/ld-lunix");

        for (path, errno, hint) in [
            (make("plain", &program_bytes, 0o644), EACCES, "chmod +x"),
            (make("foreign", &foreign, 0o755), ENOEXEC, "no program for this machine"),
            (make("text", b"just some text\n", 0o755), ENOEXEC, "no program for this machine"),
            (make("empty", b"", 0o755), ENOEXEC, "no program for this machine"),
            (make("homeless", &homeless, 0o755), ENOENT, "loader"),
            (make("script", b"#!/nonexistent/interpreter\n", 0o755), ENOENT, "interpreter behind #!"),
        ] {
            let mut spec = sh("");
            spec.arguments = vec![CString::new(path.to_str().unwrap()).unwrap()];
            let child = launch(&place, &open(&path), None, spec).await;
            expect_failure(&place, child, Step::Exec, errno, &[hint, path.to_str().unwrap()]).await;
        }
    });
}

#[test]
fn a_folder_that_cannot_be_entered_is_named() {
    each_enclosure(|place| async move {
        let mut spec = sh("exit 0");
        spec.directory = c"/nonexistent/folder".to_owned();
        let child = launch(&place, &open("/bin/sh"), None, spec).await;
        expect_failure(&place, child, Step::Directory, ENOENT, &["/nonexistent/folder"]).await;
    });
}

#[test]
fn a_limit_that_cannot_be_set_is_named() {
    each_enclosure(|place| async move {
        let Some(hard) = getrlimit(rustix::process::Resource::Nofile).maximum else {
            return skipped("a limit that cannot be set", "descriptors are unlimited here");
        };
        let mut spec = sh("exit 0");
        // One that holds comes first: it is the second that must be named. Above the host's maximum root fails as well.
        let too_many = if is_root() { u64::from(u32::MAX) } else { hard + 1 };
        spec.limits = vec![
            Limit { resource: Resource::Core, soft: Some(0), hard: Some(0) },
            Limit { resource: Resource::Descriptors, soft: Some(too_many), hard: Some(too_many) },
        ];
        let child = launch(&place, &open("/bin/sh"), None, spec).await;
        expect_failure(&place, child, Step::Limits, EPERM, &["Descriptors", &too_many.to_string()]).await;
    });
}

#[test]
fn an_ordinary_user_without_a_user_namespace_is_told_what_is_missing() {
    if is_root() {
        return skipped("a pid namespace without privilege", "root; the run as an ordinary user shows it");
    }
    run(async {
        let place = Place::without_leaf();
        let mut spec = sh("exit 0");
        spec.user_namespace = None;
        let child = launch(&place, &open("/bin/sh"), None, spec).await;
        expect_failure(&place, child, Step::PidNamespace, EPERM, &["needs root, or a user namespace"]).await;
    });
}

#[test]
fn a_script_is_run_by_the_interpreter_that_the_daemon_opened() {
    each_enclosure(|place| async move {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let script = folder.path().join("plugin");
        std::fs::write(&script, "#!/bin/sh -e\necho \"$0 $1\"; exit 3\n").unwrap();
        let mut spec = sh("");
        spec.arguments =
            ["/bin/sh", "-e", script.to_str().unwrap(), "given"].map(|it| CString::new(it).unwrap()).into();
        let mut child = launch(&place, &open(&script), Some(&open("/bin/sh")), spec).await;
        assert_eq!(all_of(&mut child.stdout).await, format!("{} given\n", script.display()));
        assert_eq!(place.last_report(child).await, exited(Exit::Code(3)));
    });
}

/// Whoever unpacked a program a moment ago may still have it open for writing.
#[test]
fn a_program_that_is_being_written_is_tried_again_until_it_is_not() {
    // Alone: a process that another test makes at the wrong moment would hold a copy of the writing descriptor.
    exclusively(|| {
        runtime().block_on(async {
            let place = Place::without_leaf();
            let (path, _folder) = copy_of_true();
            let writer = File::options().append(true).open(&path).unwrap();
            let child = launch(&place, &open(&path), None, program(&["true"])).await;
            let launcher = child.control.launcher_pid().unwrap();
            // The process that is to become the plugin exists and sleeps, which before its exec it does between two
            // attempts only.
            wait_until("an attempt that failed", || {
                let plugin = children_of(launcher).first().and_then(|init| children_of(*init).first().copied());
                plugin.is_some_and(|plugin| state_of(plugin) == Some('S'))
            })
            .await;
            drop(writer);
            assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));
        });
    });
}

#[test]
fn a_program_that_stays_open_for_writing_is_given_up() {
    run(async {
        let place = Place::without_leaf();
        let (path, _folder) = copy_of_true();
        let _writer = File::options().append(true).open(&path).unwrap();
        let child = launch(&place, &open(&path), None, program(&["true"])).await;
        expect_failure(&place, child, Step::Exec, ETXTBSY, &["still being written"]).await;
    });
}

#[test]
fn a_daemon_of_another_build_is_refused() {
    run(async {
        let place = Place::without_leaf();
        let mut spec = sh("exit 0");
        spec.build_id = "0.0.0-another".to_owned();
        let child = launch(&place, &open("/bin/sh"), None, spec).await;
        let failure = failure(place.last_report(child).await);
        assert_eq!(failure.step, Step::Specification, "{failure}");
        assert!(failure.message.contains("0.0.0-another"), "{failure}");
        assert!(failure.message.contains(palisade_launcher::BUILD_ID), "{failure}");
    });
}

#[test]
fn a_launcher_of_another_build_is_refused() {
    run(async {
        // The same program, but for the build that it says it is.
        let other = palisade_launcher::BUILD_ID.replace('-', "+");
        let bytes = std::fs::read(launcher_path()).unwrap();
        let bytes = replaced(&bytes, palisade_launcher::BUILD_ID.as_bytes(), other.as_bytes());
        let failure = failure_of_launcher(&bytes).await;
        assert_eq!(failure.step, Step::Specification, "{failure}");
        // In the daemon's words, not in those with which that launcher refuses on its side.
        assert!(failure.message.starts_with("the launcher is of build"), "{failure}");
        assert!(failure.message.contains(&other) && failure.message.contains(palisade_launcher::BUILD_ID), "{failure}");
    });
}

#[test]
fn a_program_that_is_no_launcher_is_refused() {
    run(async {
        let failure = failure_of_launcher(&std::fs::read("/bin/true").unwrap()).await;
        assert_eq!(failure.step, Step::Specification, "{failure}");
        assert!(failure.message.contains("ended before it said which build it is"), "{failure}");
    });
}

#[test]
fn a_launcher_is_not_for_the_shell() {
    let output = command(&launcher_path()).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("palisaded that starts this program"));
    let output = command(&launcher_path()).arg("--build-id").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), palisade_launcher::BUILD_ID);
    // Not enclosed, and so not fooled.
    assert_eq!(command(&launcher_path()).arg("--probe").status().unwrap().code(), Some(3));
}

#[test]
fn a_missing_launcher_is_named() {
    let error = LauncherImage::load(Path::new("/nonexistent/palisade-launcher")).unwrap_err();
    assert!(matches!(error, ImageError::Unreadable { .. }), "{error}");
}

/// A sealed image must not be changed by anybody, the daemon included.
#[test]
fn the_image_holds_the_same_bytes_for_ever() {
    // One that nobody executes meanwhile, so that it is the seal alone that refuses.
    let image = LauncherImage::load(&launcher_path()).unwrap();
    assert_eq!(image.bytes().unwrap(), std::fs::read(launcher_path()).unwrap());
    let path = format!("/proc/self/fd/{}", image.as_fd().as_raw_fd());
    let error = File::options().write(true).open(&path).and_then(|mut file| file.write_all(b"x")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EPERM));
    // And the descriptor that is kept was not opened for writing.
    assert!(rustix::fs::fcntl_getfl(image.as_fd()).unwrap() & OFlags::RWMODE == OFlags::RDONLY);
}

#[test]
fn arguments_that_do_not_fit_into_a_message_are_refused_at_once() {
    run(async {
        let mut spec = sh("exit 0");
        spec.environment = vec![CString::new(vec![b'x'; 200 * 1024]).unwrap()];
        let entry = open("/bin/sh");
        let launch = Launch { spec, entry: entry.as_fd(), interpreter: None, leaf: None, lent: None };
        let error = spawn(launchers().attend(None).await.unwrap(), launch).unwrap_err();
        assert!(error.to_string().contains("exceeds"), "{error}");
    });
}
