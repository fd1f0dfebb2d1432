//! How long it takes to find a thousand packages, and to say which versions of a thousand plugins go together.
//!
//! The looks are those of a starting daemon, on a store and a database that are opened anew: without anything remembered, and with all
//! of it. A package is a manifest with two actions, a program of 64 KiB and six other files, 150 KiB that no other package has.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use palisaded::model::check::Checks;
use palisaded::model::ids::PluginId;
use palisaded::model::manifest::Dependency;
use palisaded::model::resolution::{self, Needs, Offers};
use palisaded::model::specifier::Specifier;
use palisaded::model::trust::Settings;
use palisaded::packages::discovery;
use palisaded::store::Store;
use palisaded::store::database::Database;
use palisaded::trust::{Rules, tree};
use semver::Version;
use serde_json::json;

use crate::measure::{Effort, Place, at, median};
use crate::table::{Row, Target};

pub(crate) const DISCOVER: &[&str] = &["discover_1000_cold", "discover_1000_warm"];
pub(crate) const RESOLVE: &[&str] = &["resolve_1000"];

/// The files of a package beside its manifest, and how long each is.
const FILES: [(&str, usize); 7] = [
    ("main", 64 << 10),
    ("README.md", 6 << 10),
    ("LICENSE", 11 << 10),
    ("resources/prompt.txt", 4 << 10),
    ("resources/icon.svg", 3 << 10),
    ("resources/table.csv", 48 << 10),
    ("resources/model.json", 16 << 10),
];

/// Changes that are younger are read again.
const SETTLED: Duration = Duration::from_millis(500);

pub(crate) fn discover(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let folder = tempfile::Builder::new().prefix("palisade-bench-").tempdir().context("a folder")?;
    let plugins = folder.path().join("plugins");
    let files = write(&plugins, effort.many)?;
    std::thread::sleep(SETTLED);
    let [cold, hashing, warm, stat] = at(Place::Anywhere, || {
        let [mut cold, mut hashing, mut warm, mut stat] = [const { Vec::new() }; 4];
        for round in 0..effort.rounds {
            hashing.push(timed(|| hash(&files))?);
            stat.push(timed(|| files.iter().try_for_each(|file| fs::metadata(file).map(drop)).context("stat"))?);
            if effort.floors_only {
                continue;
            }
            let state = folder.path().join(format!("state-{round}"));
            fs::create_dir(&state).context("a folder")?;
            cold.push(look(&state, &plugins, effort.many)?);
            warm.push(look(&state, &plugins, effort.many)?);
            fs::remove_dir_all(&state).context("removing the state")?;
        }
        Ok([cold, hashing, warm, stat])
    })?;
    let row = |name: &str, values: &[f64], floor: &[f64], most| Row {
        name: name.into(),
        value: median(values),
        unit: "ms",
        floor: Some(median(floor)),
        target: Target::RatioAtMost(most),
    };
    Ok(vec![row(DISCOVER[0], &cold, &hashing, 2.0), row(DISCOVER[1], &warm, &stat, 10.0)])
}

/// Writes the packages, and says where all their files are.
fn write(plugins: &Path, count: usize) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for number in 0..count {
        let id = format!("plugin-{number}");
        let folder = plugins.join(&id);
        fs::create_dir_all(folder.join("resources")).context("a folder")?;
        let action = |name: &str| {
            let parameters = json!({
                "type": "object",
                "properties": {"text": {"type": "string", "maxLength": 1000}, "count": {"type": "integer", "minimum": 0}},
                "required": ["text"], "additionalProperties": false,
            });
            json!({"name": name, "description": format!("Does {name} with a text."), "parameters": parameters})
        };
        let manifest = json!({
            "id": id, "name": format!("Plugin {number}"), "version": "1.2.3", "entry_point": "main",
            "description": "One of a thousand.", "license": "MIT", "tags": ["text", "bench"], "kind": "tool",
            "actions": [action("first"), action("second")],
            "permissions_required": [{"permission": "execute_code", "reason": "it runs a shell"}],
        });
        let mut add = |name: &str, contents: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, contents).with_context(|| format!("writing {}", path.display()))?;
            files.push(path);
            anyhow::Ok(())
        };
        add("plugin.json", &serde_json::to_vec_pretty(&manifest)?)?;
        for (name, bytes) in FILES {
            let mut contents = Vec::with_capacity(bytes + 64);
            write!(contents, "#!/bin/sh\n# {name} of {id}\n")?;
            let line = format!("{name} {number} {}\n", "x".repeat(80));
            while contents.len() < bytes {
                contents.extend_from_slice(line.as_bytes());
            }
            add(name, &contents)?;
        }
        fs::set_permissions(folder.join("main"), fs::Permissions::from_mode(0o755)).context("a mode")?;
    }
    Ok(files)
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

fn hash(files: &[PathBuf]) -> anyhow::Result<()> {
    for file in files {
        let mut open = fs::File::open(file).with_context(|| format!("opening {}", file.display()))?;
        tree::hash(&mut open).context("reading")?;
    }
    Ok(())
}

/// As a daemon looks when it starts; in ms.
fn look(state: &Path, plugins: &Path, count: usize) -> anyhow::Result<f64> {
    let lock = fs::File::create(state.join("lock")).context("a lock")?;
    let store = Store::open(state.join("store"), lock)?;
    let database = Database::open(&state.join("registry.sqlite3"));
    let rules = Rules::open(Settings::default(), Checks::default());
    let begun = Instant::now();
    let looked = discovery::look(&[plugins.to_owned()], &store, &rules, &database)?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    let usable = looked.staged.iter().filter(|(_, snapshot)| snapshot.is_ok()).count();
    ensure!(usable == count && looked.rejected.is_empty(), "{usable} of {count} packages can be used");
    Ok(took)
}

pub(crate) fn resolve(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let specifier = |text: &str| Specifier::parse(text).map_err(|error| anyhow::anyhow!("{error}"));
    let ids = (0..effort.many).map(|number| PluginId::parse(&format!("plugin-{number}")));
    let ids: Vec<PluginId> = ids.collect::<Result<_, _>>().map_err(|error| anyhow::anyhow!("{error}"))?;
    let versions: Vec<_> = (0..5).map(|minor| Version::new(1, minor, 0)).collect();
    // Each needs five that come later, the newer versions newer ones: so there is no cycle, and not always the newest will do.
    let mut needs: Vec<Vec<Needs>> = Vec::new();
    for number in 0..effort.many {
        let mut of_versions = Vec::new();
        for minor in 0..5 {
            let mut of_one = Needs::new();
            for step in [1, 2, 7, 31, 101] {
                if let Some(id) = ids.get(number + step) {
                    let text = match (number + step) % 3 {
                        0 => format!(">=1.{minor}, <2"),
                        1 => "^1.0, <1.4".to_owned(),
                        _ => "^1".to_owned(),
                    };
                    let dependency = Dependency { version: specifier(&text)?, optional: false, reason: None };
                    of_one.insert(id.clone(), dependency);
                }
            }
            of_versions.push(of_one);
        }
        needs.push(of_versions);
    }
    let wanted: BTreeMap<_, _> = ids.iter().map(|id| (id.clone(), Specifier::any())).collect();
    let took = at(Place::OneCore, || {
        let mut took = Vec::new();
        for _ in 0..effort.rounds {
            let begun = Instant::now();
            let mut offers = Offers::new();
            for (id, needs) in ids.iter().zip(&needs) {
                offers.insert(id, versions.iter().zip(needs).collect());
            }
            let chosen = resolution::resolve(&offers, &wanted)?;
            took.push(begun.elapsed().as_secs_f64() * 1e3);
            ensure!(chosen.len() == effort.many, "every plugin has its version");
        }
        Ok(took)
    })?;
    Ok(vec![Row {
        name: RESOLVE[0].into(),
        value: median(&took),
        unit: "ms",
        floor: None,
        target: Target::AtMost(100.0),
    }])
}
