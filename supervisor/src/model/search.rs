//! Which plugins somebody looks for, and which of them come first.
//!
//! A text is words, each of which has to be found somewhere, whatever its case; filters all have to hold. What was found comes in the
//! order of [`Place`], by its word found worst; nothing else has a say in it but id and version, so that the same question has the same answer.

use std::fmt;

use semver::Version;

use super::ids::PluginId;
use super::manifest::{Capability, Kind, Manifest};
use super::permission::grants;
use super::status::{PluginState, quoted};

/// A text to look for is not longer.
pub const TEXT_BYTES_MAX: usize = 256;

/// What a disabled version is found by, beside its state.
pub const DISABLED: &str = "disabled";

/// And one that waits for its operator's consent.
pub const AWAITING: &str = "awaits_consent";

/// What somebody looks for, as it was said.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said<'a> {
    pub text: Option<&'a str>,
    pub tag: Option<&'a str>,
    pub capability: Option<&'a str>,
    pub kind: Option<&'a str>,
    pub permission: Option<&'a str>,
    pub state: Option<&'a str>,
}

/// What somebody looks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    words: Vec<String>,
    tag: Option<String>,
    capability: Option<Capability>,
    kind: Option<Kind>,
    permission: Option<&'static str>,
    state: Option<Wanted>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Disabled,
    Awaiting,
    State(PluginState),
}

/// Why nothing can be looked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("the text has {bytes} bytes; at most {TEXT_BYTES_MAX} are looked for")]
    TooLong { bytes: usize },
    #[error("there is no {what} {}; there are {there}", quoted(.name))]
    Unknown { what: &'static str, name: String, there: String },
}

/// Where a word was found, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Id,
    IdBeginning,
    Name,
    Tag,
    Description,
    Action,
}

impl Place {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Id | Self::IdBeginning => "id",
            Self::Name => "name",
            Self::Tag => "tag",
            Self::Description => "description",
            Self::Action => "action",
        }
    }
}

/// What is looked at of a version, beside its manifest.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub manifest: &'a Manifest,
    pub enabled: bool,
    pub awaits_consent: bool,
    pub state: PluginState,
    /// Names and descriptions of the actions that its program has, if it has run.
    pub actions: &'a [(String, String)],
}

impl Query {
    /// # Errors
    /// [`QueryError`], with all that there is.
    pub fn new(said: Said<'_>) -> Result<Self, QueryError> {
        let text = said.text.unwrap_or_default();
        if TEXT_BYTES_MAX < text.len() {
            return Err(QueryError::TooLong { bytes: text.len() });
        }
        let states: Vec<_> = PluginState::ALL.map(|state| (state.as_str(), Wanted::State(state))).into();
        let states = [states, vec![(DISABLED, Wanted::Disabled), (AWAITING, Wanted::Awaiting)]].concat();
        Ok(Self {
            words: text.split_whitespace().map(str::to_lowercase).collect(),
            tag: said.tag.map(str::to_lowercase),
            capability: one_of("capability", said.capability, Capability::NAMED)?,
            kind: one_of("kind", said.kind, Kind::NAMED)?,
            permission: one_of("permission", said.permission, &grants::NAMES.map(|name| (name, name)))?,
            state: one_of("state", said.state, &states)?,
        })
    }

    /// Whether that version is looked for; and where its words are, which a query without words does not ask.
    #[must_use]
    pub fn find(&self, candidate: &Candidate<'_>) -> Option<Option<Place>> {
        let manifest = candidate.manifest;
        let about = &manifest.about;
        let fits = self.tag.as_ref().is_none_or(|tag| about.tags.contains(tag))
            && self.capability.is_none_or(|capability| about.capabilities.contains(&capability))
            && self.kind.is_none_or(|kind| about.kind == kind)
            && self.permission.is_none_or(|name| manifest.permission_requests.iter().any(|one| one.permission == name))
            && self.state.is_none_or(|state| match state {
                Wanted::Disabled => !candidate.enabled,
                Wanted::Awaiting => candidate.awaits_consent,
                Wanted::State(state) => candidate.state == state,
            });
        if !fits {
            return None;
        }
        let places: Option<Vec<_>> = self.words.iter().map(|word| place(word, candidate)).collect();
        places.map(|places| places.into_iter().max())
    }
}

/// In which order two versions come that were found there.
#[must_use]
pub fn order(
    one: (Option<Place>, &PluginId, &Version),
    other: (Option<Place>, &PluginId, &Version),
) -> std::cmp::Ordering {
    // The highest version of an id is the one that is taken, so it comes first.
    one.0.cmp(&other.0).then_with(|| one.1.cmp(other.1)).then_with(|| other.2.cmp(one.2))
}

fn place(word: &str, candidate: &Candidate<'_>) -> Option<Place> {
    let has = |text: &str| text.to_lowercase().contains(word);
    let Candidate { manifest, actions, .. } = candidate;
    let id = manifest.id.as_str();
    let stated = || {
        manifest
            .actions
            .iter()
            .any(|(name, action)| has(name.as_str()) || action.description.as_deref().is_some_and(has))
    };
    if id == word {
        Some(Place::Id)
    } else if id.starts_with(word) {
        Some(Place::IdBeginning)
    } else if has(id) || has(&manifest.name) {
        Some(Place::Name)
    } else if manifest.about.tags.iter().any(|tag| has(tag)) {
        Some(Place::Tag)
    } else if manifest.description.as_deref().is_some_and(has) {
        Some(Place::Description)
    } else if stated() || actions.iter().any(|(name, description)| has(name) || has(description)) {
        Some(Place::Action)
    } else {
        None
    }
}

fn one_of<T: Copy>(
    what: &'static str,
    said: Option<&str>,
    named: &[(&'static str, T)],
) -> Result<Option<T>, QueryError> {
    let Some(said) = said else { return Ok(None) };
    match named.iter().find(|(name, _)| *name == said) {
        Some((_, found)) => Ok(Some(*found)),
        None => {
            let there = named.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            Err(QueryError::Unknown { what, name: said.to_owned(), there })
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn manifest(id: &str, more: &Value) -> Manifest {
        let mut fields = json!({"id": id, "name": "Some", "version": "1.0.0", "entry_point": "main"});
        for (field, value) in more.as_object().unwrap() {
            fields[field] = value.clone();
        }
        Manifest::parse(fields.to_string().as_bytes()).unwrap().0
    }

    fn all() -> Vec<Manifest> {
        vec![
            manifest("pdf", &json!({"name": "Pages"})),
            manifest("pdf-tools", &json!({"capabilities": ["data_processing"], "kind": "workflow"})),
            manifest("zoo", &json!({"name": "Reads PDF", "permissions_required": [{"permission": "file_read"}]})),
            manifest("web", &json!({"tags": ["pdfs", "paper"], "capabilities": ["data_processing", "custom"]})),
            manifest("paper", &json!({"description": "Text out of a PDF file"})),
            manifest("fetcher", &json!({"actions": [{"name": "fetch", "description": "A pdf, or a page"}]})),
            manifest("archive", &json!({})),
        ]
    }

    fn found(said: Said<'_>) -> Vec<String> {
        let query = Query::new(said).unwrap();
        let manifests = all();
        let actions = [("pack".to_owned(), "Packs PDF files".to_owned())];
        let mut hits: Vec<_> = manifests
            .iter()
            .filter_map(|manifest| {
                let is_archive = manifest.id.as_str() == "archive";
                let actions = if is_archive { &actions[..] } else { &[] };
                let (enabled, awaits_consent) = (!is_archive, manifest.id.as_str() == "zoo");
                let candidate = Candidate { manifest, enabled, awaits_consent, state: PluginState::Stopped, actions };
                Some((query.find(&candidate)?, &manifest.id, &manifest.version))
            })
            .collect();
        hits.reverse();
        hits.sort_by(|one, other| order(*one, *other));
        hits.iter().map(|(_, id, _)| id.to_string()).collect()
    }

    #[test]
    fn what_is_found_comes_by_the_place_where_it_was_found() {
        let text = |text| Said { text: Some(text), ..Said::default() };
        // None of it by chance: by id they would come otherwise.
        let ranked = ["pdf", "pdf-tools", "zoo", "web", "paper", "archive", "fetcher"];
        let by_id = ["archive", "fetcher", "paper", "pdf", "pdf-tools", "web", "zoo"];
        for said in ["pdf", "PDF"] {
            assert_eq!(found(text(said)), ranked, "{said}");
        }
        assert_eq!(found(Said::default()), by_id, "whoever looks for nothing finds all, by id");
        assert_eq!(found(text("  ")), by_id);
        assert_eq!(found(text("pdf file")), ["paper", "archive"], "each word, and the worst decides");
        assert_eq!(found(text("nothing of the kind")), [""; 0]);
        assert_eq!(found(text("PDF,")), ["fetcher"]);
    }

    #[test]
    fn every_filter_has_to_hold() {
        let none = Said::default();
        assert_eq!(found(Said { capability: Some("data_processing"), ..none }), ["pdf-tools", "web"]);
        assert_eq!(found(Said { capability: Some("data_processing"), tag: Some("Paper"), ..none }), ["web"]);
        assert_eq!(found(Said { kind: Some("workflow"), ..none }), ["pdf-tools"]);
        assert_eq!(found(Said { kind: Some("workflow"), text: Some("zoo"), ..none }), [""; 0]);
        assert_eq!(found(Said { permission: Some("file_read"), ..none }), ["zoo"]);
        assert_eq!(found(Said { state: Some("disabled"), ..none }), ["archive"]);
        assert_eq!(found(Said { state: Some("awaits_consent"), ..none }), ["zoo"]);
        assert_eq!(found(Said { state: Some("stopped"), ..none }).len(), 7);
        assert_eq!(found(Said { state: Some("active"), ..none }), [""; 0]);
    }

    #[test]
    fn what_there_is_not_is_told_with_what_there_is() {
        let none = Said::default();
        for (said, message) in [
            (Said { kind: Some("toool"), ..none }, "there is no kind \"toool\"; there are tool, llm_provider, "),
            (Said { capability: Some("x"), ..none }, "there is no capability \"x\"; there are data_processing, "),
            (Said { permission: Some("x"), ..none }, "there is no permission \"x\"; there are execute_code, "),
            (Said { state: Some("x"), ..none }, "there is no state \"x\"; there are discovered, "),
            (Said { text: Some(&"x".repeat(257)), ..none }, "the text has 257 bytes; at most 256 "),
        ] {
            let told = Query::new(said).unwrap_err().to_string();
            assert!(told.starts_with(message), "{told}");
        }
    }
}
