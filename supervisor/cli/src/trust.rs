//! `palisade keygen`, `sign` and `verify`: who vouches for a package, and whether it holds. None of them needs a daemon; what is checked, and by which
//! rules, is the daemon's own code.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palisade_protocol::ErrorCode;
use palisaded::config::{Config, Overrides};
use palisaded::key_file::KeyError;
use palisaded::model::check::{Finding, Severity};
use palisaded::model::manifest::Manifest;
use palisaded::model::trust::{KeyName, Policy};
use palisaded::store::{self, Program};
use palisaded::trust::keys::NamedKey;
use palisaded::trust::seal::{SealError, Sealed, read_manifest, seal};
use palisaded::trust::tree::{self, TreeError};
use palisaded::trust::{Candidate, Held, Rules};
use serde_json::json;

use crate::arguments::{Keygen, Sign, Verify};
use crate::failure::Failure;
use crate::output::print;
use crate::screen::{Cell, Label, Screen, Tone, harmless};

/// `palisade keygen NAME`
pub(crate) fn keygen(keygen: Keygen, as_json: bool) -> Result<(), Failure> {
    let Keygen { name, method, out } = keygen;
    let path = out.unwrap_or_else(|| PathBuf::from(format!("{name}.key")));
    let made = NamedKey::generate(name, method, &path).map_err(|error| {
        let there =
            matches!(&error, KeyError::File { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists);
        let failure = Failure::usage(error.to_string());
        if there { failure.with_hint("a key is never overwritten; give another file with --out") } else { failure }
    })?;
    let NamedKey { name, key } = made;
    let public = key.public().map(|public| STANDARD.encode(public));
    // The daemon stands elsewhere.
    let path = std::path::absolute(&path).unwrap_or(path);
    if as_json {
        let made = json!({ "name": name, "method": method, "key_file": path, "public_key": public });
        return print(&format!("{made}\n"));
    }
    let material = match public {
        Some(public) => format!("public_key = \"{public}\""),
        None => format!("key_file = {:?}", path.to_string_lossy()),
    };
    print(&format!(
        "[trust.keys.{}]\nmethod = \"{method}\"\n{material}\nids = [\"*\"] # the plugins that it may sign, as in [\"acme-*\", \"search\"]\n",
        toml_key(&name)
    ))
}

/// As a key of TOML, in which a point divides.
fn toml_key(name: &KeyName) -> String {
    if name.as_str().contains('.') { format!("\"{name}\"") } else { name.to_string() }
}

/// `palisade sign FOLDER`
pub(crate) fn sign(sign: &Sign, as_json: bool) -> Result<(), Failure> {
    let NamedKey { name, key } = NamedKey::read(&sign.key).map_err(|error| match &error {
        KeyError::File { .. } => Failure::usage(error.to_string()),
        KeyError::Open { .. } | KeyError::Foreign { .. } | KeyError::Form { .. } => {
            Failure::code(ErrorCode::KeyUnusable, error.to_string())
        }
    })?;
    expect_folder(&sign.folder, "sign")?;
    let name = sign.key_id.as_ref().unwrap_or(&name);
    let Sealed { manifest, checksum, signature } =
        seal(&sign.folder, &key, name, SystemTime::now()).map_err(|error| not_sealed(&error))?;
    if !as_json {
        return Ok(());
    }
    let told = json!({
        "id": manifest.id.as_str(), "version": manifest.version, "checksum": checksum, "method": signature.method,
        "key_id": signature.key_id, "signed_at": signature.signed_at.as_str(),
    });
    print(&format!("{told}\n"))
}

/// What is a file, as an archive is, has no manifest in it that could be read.
fn expect_folder(folder: &Path, command: &str) -> Result<(), Failure> {
    if !folder.is_file() {
        return Ok(());
    }
    let failure = Failure::usage(format!("{} is a file; `{command}` takes the folder of a package", folder.display()));
    Err(failure.with_hint("unpack an archive first, with `tar -xf`; what is installed from one is verified then"))
}

fn not_sealed(error: &SealError) -> Failure {
    match error {
        SealError::File { done: "written", source, .. } => Failure::output(source),
        SealError::File { .. } => Failure::usage(error.to_string()),
        SealError::Tree(tree) => not_read(tree),
        SealError::Manifest { .. } | SealError::Canonical(_) => {
            Failure::code(ErrorCode::ConfigurationInvalid, error.to_string())
        }
    }
}

fn not_read(error: &TreeError) -> Failure {
    match error {
        TreeError::Read { .. } | TreeError::Changed { .. } => Failure::usage(error.to_string()),
        TreeError::Unusual { .. } | TreeError::TooLarge { .. } => {
            Failure::code(ErrorCode::ConfigurationInvalid, error.to_string())
        }
    }
}

/// `palisade verify FOLDER`
pub(crate) fn verify(verify: Verify, screen: &Screen, as_json: bool) -> Result<(), Failure> {
    let Verify { folder, config, policy } = verify;
    let uid = rustix::process::geteuid().as_raw();
    let config = Config::load(Overrides { config, ..Overrides::default() }, uid)
        .map_err(|error| Failure::code(ErrorCode::ConfigurationInvalid, error.to_string()))?;
    let rules = Rules::open(config.trust, config.checks);
    // In the configuration paths are absolute.
    let place =
        std::path::absolute(&folder).map_err(|error| Failure::usage(format!("{}: {error}", folder.display())))?;
    let policy = policy.unwrap_or_else(|| rules.policy_of(&place));
    expect_folder(&folder, "verify")?;
    let (bytes, manifest) = read_manifest(&folder).map_err(|error| not_sealed(&error))?;
    let checksum = tree::checksum(&folder).map_err(|error| not_read(&error))?;
    let candidate = Candidate { manifest: &manifest, bytes: &bytes, checksum: &checksum };
    let held = rules
        .check(candidate, policy, SystemTime::now())
        .map_err(|refusal| Failure::code(refusal.code(), format!("{}: {refusal}", folder.display())))?;
    let findings = program(&rules, &folder, &manifest)?;
    let pinned = manifest.checksum.is_some() && held.warning.is_none();
    if as_json {
        let signature = held.signature.as_ref().map(|signature| {
            json!({
                "method": signature.method, "key_id": signature.key_id, "signed_at": signature.signed_at.as_str(),
            })
        });
        let told = json!({
            "id": manifest.id.as_str(), "version": manifest.version, "policy": policy, "checksum": checksum,
            "pinned": pinned, "signature": signature, "warning": held.warning, "findings": findings,
        });
        return print(&format!("{told}\n"));
    }
    print(&text(&held, &folder, &checksum, pinned, &findings, screen))?;
    if let Some(warning) = &held.warning {
        // What is odd is no failure: nothing was required.
        let _ = screen.error_line(&screen.labelled(Label::Warning, &harmless(warning)));
    }
    Ok(())
}

/// What is found of the program of a package, where the kernel executes it.
fn program(rules: &Rules, folder: &Path, manifest: &Manifest) -> Result<Vec<Finding>, Failure> {
    let refused = |why: String| Failure::code(ErrorCode::CheckFailed, format!("{}: {why}", folder.display()));
    let program = match manifest.runtime {
        // What a runtime executes is its own affair, and which there are is the daemon's.
        Some(_) => None,
        None => {
            let there = store::entry_point(folder, manifest.entry_point.as_str());
            Some(there.map_err(|failure| refused(failure.message))?.program)
        }
    };
    if let Some(Program::Script { interpreter, .. }) = &program
        && !Path::new(interpreter).is_file()
    {
        let why = format!("the script's interpreter {interpreter} is not there; install it, or correct the #! line");
        return Err(refused(why));
    }
    let inspected = rules.inspect(folder, manifest, program.as_ref()).map_err(|error| refused(error.to_string()))?;
    inspected.refused.map_or(Ok(inspected.findings), |why| Err(refused(why)))
}

fn text(held: &Held, folder: &Path, checksum: &str, pinned: bool, findings: &[Finding], screen: &Screen) -> String {
    let (checked, tone) = match (&held.warning, pinned) {
        (Some(_), _) => ("differs", Tone::Careful),
        (None, true) => ("holds", Tone::Good),
        (None, false) => ("none", Tone::Plain),
    };
    let signature = match &held.signature {
        Some(signature) => vec![
            "signature".into(),
            Cell::new("holds", Tone::Good),
            format!("by \"{}\" ({}), at {}", signature.key_id, signature.method, signature.signed_at.as_str()).into(),
        ],
        None => vec!["signature".into(), Cell::new("not looked at", Tone::Plain), "".into()],
    };
    let required = match held.policy {
        Policy::None => "nothing is required of it",
        Policy::Checksum => "its checksum has to hold",
        Policy::Signature => "its checksum and its signature have to hold",
    };
    let mut rows = vec![
        vec!["policy".into(), held.policy.to_string().into(), format!("{}: {required}", folder.display()).into()],
        vec!["checksum".into(), Cell::new(checked, tone), checksum.into()],
        signature,
    ];
    rows.extend(findings.iter().map(|finding| {
        let tone = match finding.severity {
            Severity::Info => Tone::Plain,
            Severity::Warning | Severity::Error => Tone::Careful,
        };
        vec![
            "program".into(),
            Cell::new(finding.code.as_str(), tone),
            format!("{} {}", finding.place, finding.detail).into(),
        ]
    }));
    if findings.is_empty() {
        rows.push(vec!["program".into(), Cell::new("holds", Tone::Good), "".into()]);
    }
    screen.wrapping_table(&["WHAT", "STATE", "DETAIL"], &rows)
}
