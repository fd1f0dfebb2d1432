//! What operators and agents find plugins by: `search`, `capabilities`, and what `info` says of a package.

use std::cmp::Ordering;
use std::fs::File;
use std::io::Read;

use palisade_protocol::{ActionInfo, ErrorBody, ErrorCode, StreamInfo, StreamKind};
use semver::Version;
use serde::Serialize;

use super::record::{RECORD_BYTES_MAX, Record};
use super::{Packages, run};
use crate::model::ids::PluginId;
use crate::model::manifest::{Capability, Dependency, Json, Kind, Manifest, Stream};
use crate::model::search::{Candidate, Place, Query, Said, order};
use crate::model::status::PluginState;
use crate::plugin::handle::Handle;
use crate::registry::Registry;

/// What `search` answers.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// The best first.
    pub plugins: Vec<Hit>,
}

/// A version that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Hit {
    pub id: PluginId,
    pub version: Version,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub kind: &'static str,
    pub capabilities: Vec<&'static str>,
    pub tags: Vec<String>,
    pub enabled: bool,
    pub awaits_consent: bool,
    pub deprecated: bool,
    pub state: PluginState,
    /// Where the text was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found_in: Option<&'static str>,
}

/// What `capabilities` answers: of all plugins, or of one.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Overview {
    /// Every capability that there is.
    Capabilities(Vec<Providers>),
    /// One version of one plugin.
    Plugin(Abilities),
}

/// Who has a capability.
#[derive(Debug, Clone, Serialize)]
pub struct Providers {
    pub capability: &'static str,
    /// `id version` each.
    pub plugins: Vec<String>,
}

/// What a plugin can do.
#[derive(Debug, Clone, Serialize)]
pub struct Abilities {
    pub id: PluginId,
    pub version: Version,
    pub kind: &'static str,
    pub capabilities: Vec<&'static str>,
    /// Whether its program has said what its actions are, or else only its manifest.
    pub announced: bool,
    pub actions: Vec<Ability>,
}

/// An action, in short.
#[derive(Debug, Clone, Serialize)]
pub struct Ability {
    pub name: String,
    pub description: String,
    /// The names of its parameters; those that may be left out end in `?`.
    pub parameters: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reads: Option<StreamKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<StreamKind>,
    pub progress: bool,
    pub idempotent: bool,
    pub endless: bool,
}

/// What `info` says of a package, beside what it is doing.
#[derive(Debug, Clone, Serialize)]
pub struct About {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub homepage: Option<String>,
    pub kind: &'static str,
    pub capabilities: Vec<&'static str>,
    pub tags: Vec<String>,
    pub dependencies: Vec<Need>,
    /// Plugins that depend on it, as `id version`.
    pub dependants: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub installed: Option<Installation>,
}

/// A plugin that it depends on.
#[derive(Debug, Clone, Serialize)]
pub struct Need {
    pub id: PluginId,
    pub version: String,
    pub optional: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The version that it would have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met_by: Option<Version>,
}

/// How it came here.
#[derive(Debug, Clone, Serialize)]
pub struct Installation {
    pub source: String,
    pub at_unix_ms: u64,
    pub by: String,
}

/// The versions that are looked for.
///
/// # Errors
/// `invalid_params` for what cannot be looked for.
pub fn search(registry: &Registry, said: Said<'_>) -> Result<Found, ErrorBody> {
    let query = Query::new(said).map_err(|error| ErrorBody::new(ErrorCode::InvalidParams, error.to_string()))?;
    let mut found: Vec<(Option<Place>, &Handle)> = registry
        .all()
        .filter_map(|handle| {
            let announced = handle.actions().map(|actions| actions.infos()).unwrap_or_default();
            let actions: Vec<_> = announced.into_iter().map(|action| (action.name, action.description)).collect();
            let candidate = Candidate {
                manifest: &handle.blueprint().manifest,
                enabled: handle.is_enabled(),
                awaits_consent: handle.awaits_consent(),
                state: handle.state(),
                actions: &actions,
            };
            query.find(&candidate).map(|place| (place, handle))
        })
        .collect();
    let by_place = |one: &(Option<Place>, &Handle), other: &(Option<Place>, &Handle)| -> Ordering {
        order((one.0, one.1.id(), one.1.version()), (other.0, other.1.id(), other.1.version()))
    };
    found.sort_by(by_place);
    Ok(Found { plugins: found.into_iter().map(|(place, handle)| hit(place, handle)).collect() })
}

fn hit(place: Option<Place>, handle: &Handle) -> Hit {
    let manifest = &handle.blueprint().manifest;
    Hit {
        id: manifest.id.clone(),
        version: manifest.version.clone(),
        name: manifest.name.clone(),
        description: manifest.description.clone(),
        kind: kind(manifest.about.kind),
        capabilities: capabilities(manifest),
        tags: manifest.about.tags.clone(),
        enabled: handle.is_enabled(),
        awaits_consent: handle.awaits_consent(),
        deprecated: handle.deprecated().is_some(),
        state: handle.state(),
        found_in: place.map(Place::as_str),
    }
}

/// Who has which capability.
#[must_use]
pub fn providers(registry: &Registry) -> Overview {
    let of = |(name, capability): &(&'static str, Capability)| {
        let has = |handle: &&Handle| handle.blueprint().manifest.about.capabilities.contains(capability);
        let plugins =
            registry.all().filter(has).map(|handle| format!("{} {}", handle.id(), handle.version())).collect();
        Providers { capability: name, plugins }
    };
    Overview::Capabilities(Capability::NAMED.iter().map(of).collect())
}

/// What a plugin can do, as far as that is known without starting it.
#[must_use]
pub fn abilities(handle: &Handle) -> Overview {
    let manifest = &handle.blueprint().manifest;
    let announced = handle.actions().map(|actions| actions.infos());
    let is_announced = announced.is_some();
    let infos = announced.unwrap_or_else(|| stated(manifest));
    let actions = infos
        .into_iter()
        .map(|info| {
            let progress = manifest.action(&info.name).progress;
            Ability {
                parameters: parameter_names(&info),
                name: info.name,
                description: info.description,
                reads: info.input.map(|stream| stream.kind),
                streams: info.output.map(|stream| stream.kind),
                progress,
                idempotent: info.idempotent,
                endless: info.endless,
            }
        })
        .collect();
    Overview::Plugin(Abilities {
        id: manifest.id.clone(),
        version: manifest.version.clone(),
        kind: kind(manifest.about.kind),
        capabilities: capabilities(manifest),
        announced: is_announced,
        actions,
    })
}

/// The actions of a manifest, in the form in which programs announce them.
fn stated(manifest: &Manifest) -> Vec<ActionInfo> {
    let stream = |stream: &Option<Stream>| stream.as_ref().map(|stream| StreamInfo { kind: stream.kind, item: None });
    let all = manifest.actions.iter().map(|(name, action)| ActionInfo {
        name: name.to_string(),
        description: action.description.clone().unwrap_or_default(),
        parameters: action.parameters.as_ref().map(Json::value),
        input: stream(&action.streaming.input),
        output: stream(&action.streaming.output),
        idempotent: action.idempotent,
        endless: action.endless,
        ..ActionInfo::default()
    });
    all.collect()
}

fn parameter_names(info: &ActionInfo) -> Vec<String> {
    let member = |name| info.parameters.as_ref().and_then(|schema| schema.get(name));
    let required: Vec<_> = member("required").and_then(|names| names.as_array()).into_iter().flatten().collect();
    let properties = member("properties").and_then(|properties| properties.as_object()).into_iter().flatten();
    let told = |name: &String| {
        let is_required = required.iter().any(|required| *required == name);
        if is_required { name.clone() } else { format!("{name}?") }
    };
    properties.map(|(name, _)| told(name)).collect()
}

/// What is said of its package.
#[must_use]
pub fn about(registry: &Registry, handle: &Handle, installed: Option<Installation>) -> About {
    let manifest = &handle.blueprint().manifest;
    let (id, version) = (&manifest.id, &manifest.version);
    let need = |(needed, wanted): (&PluginId, &Dependency)| {
        let there = registry.versions(needed).filter(|(_, handle)| handle.is_enabled() && !handle.is_held());
        let there: Vec<_> = there.map(|(version, _)| version).collect();
        Need {
            id: needed.clone(),
            version: wanted.version.to_string(),
            optional: wanted.optional,
            reason: wanted.reason.clone(),
            met_by: wanted.version.highest(there.iter().copied()).cloned(),
        }
    };
    let depends = |other: &&Handle| {
        let needs = other.blueprint().manifest.dependencies.get(id);
        other.id() != id && needs.is_some_and(|wanted| wanted.version.admits(version))
    };
    About {
        author: manifest.about.author.clone(),
        license: manifest.about.license.clone(),
        homepage: manifest.about.homepage.clone(),
        kind: kind(manifest.about.kind),
        capabilities: capabilities(manifest),
        tags: manifest.about.tags.clone(),
        dependencies: manifest.dependencies.iter().map(need).collect(),
        dependants: registry.all().filter(depends).map(|other| format!("{} {}", other.id(), other.version())).collect(),
        installed,
    }
}

fn kind(kind: Kind) -> &'static str {
    kind.as_str()
}

fn capabilities(manifest: &Manifest) -> Vec<&'static str> {
    manifest.about.capabilities.iter().map(|capability| capability.as_str()).collect()
}

impl Packages {
    /// How a version was installed, if it was.
    ///
    /// # Errors
    /// When there is no thread to be had for it.
    pub async fn installation(&self, id: &PluginId, version: &Version) -> Result<Option<Installation>, ErrorBody> {
        let path = self.record_of(id, version);
        run(move || {
            let mut text = Vec::new();
            // What is no record was told when the daemon looked at it.
            File::open(path).ok()?.take(RECORD_BYTES_MAX).read_to_end(&mut text).ok()?;
            let record: Record = serde_json::from_slice(&text).ok()?;
            Some(Installation { source: record.source, at_unix_ms: record.installed_unix_ms, by: record.installed_by })
        })
        .await
    }
}
