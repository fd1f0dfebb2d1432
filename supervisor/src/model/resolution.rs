//! Which versions go together: of every plugin that is needed, near or far, one that suits all who need it.
//!
//! Solved by `pubgrub`, on numbers: a plugin is its place in the list, a version its place among the plugin's, the lowest first, and a
//! specifier is the versions that it takes of those on offer. So what a specifier means is decided by [`Specifier`] alone.
//!
//! Invariants: the same offers and wishes give the same answer; an optional need holds where it can, and costs nothing where it
//! cannot; an answer names the plugins on the way from the wish to what is wrong.
//! Elsewhere: in which order they start is `dependency`'s; which versions are on offer is the registry's business.

use std::collections::BTreeMap;
use std::convert::Infallible;

use pubgrub::{
    Dependencies, DependencyConstraints, DependencyProvider, DerivationTree, External, PackageResolutionStatistics,
    PubGrubError, Ranges,
};
use semver::Version;

use super::dependency::{self, Cycle, Graph};
use super::ids::PluginId;
use super::manifest::Dependency;
use super::specifier::Specifier;

/// Most sentences in one explanation.
const SENTENCES_MAX: usize = 8;

/// What one version needs.
pub type Needs = BTreeMap<PluginId, Dependency>;

/// The versions on offer, with what each needs.
pub type Offers<'a> = BTreeMap<&'a PluginId, BTreeMap<&'a Version, &'a Needs>>;

/// Why nothing suits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolvable {
    /// Something is missing, or two want different versions of a third.
    #[error("{}", .sentences.join("; "))]
    Unmet { sentences: Vec<String> },
    /// They wait for each other.
    #[error(transparent)]
    Cycle(#[from] Cycle),
}

/// A version of each of `wanted`, and of all that these need.
///
/// # Errors
/// [`Unresolvable`], with the way to what is wrong.
pub fn resolve(
    offers: &Offers<'_>,
    wanted: &BTreeMap<PluginId, Specifier>,
) -> Result<BTreeMap<PluginId, Version>, Unresolvable> {
    let solved = Problem::new(offers, wanted, true).solve();
    // What is optional may be what is in the way.
    let solved = solved.or_else(|_| Problem::new(offers, wanted, false).solve())?;
    let mut graph = Graph::new();
    for (id, version) in &solved {
        let needs = offers.get(id).and_then(|versions| versions.get(version));
        let needed = needs.into_iter().flat_map(|needs| needs.keys()).filter(|id| solved.contains_key(*id));
        graph.insert(id.clone(), needed.cloned().collect());
    }
    dependency::start_order(&graph)?;
    Ok(solved)
}

/// The one who wants what is wanted.
const ROOT: usize = usize::MAX;

type Set = Ranges<u32>;

struct Problem<'a> {
    ids: Vec<&'a PluginId>,
    versions: Vec<Vec<&'a Version>>,
    needs: Vec<Vec<Vec<Need<'a>>>>,
    root: Vec<Need<'a>>,
}

struct Need<'a> {
    /// Past the end where there is no such plugin.
    plugin: usize,
    id: &'a PluginId,
    specifier: &'a Specifier,
    set: Set,
}

impl<'a> Problem<'a> {
    fn new(offers: &Offers<'a>, wanted: &'a BTreeMap<PluginId, Specifier>, optional: bool) -> Self {
        let mut ids: Vec<_> = offers.keys().copied().collect();
        let mut places: BTreeMap<&PluginId, usize> = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        let mut versions: Vec<Vec<&Version>> =
            offers.values().map(|versions| versions.keys().copied().collect()).collect();
        let mut need = |id: &'a PluginId, specifier: &'a Specifier| {
            let plugin = *places.entry(id).or_insert_with(|| {
                ids.push(id);
                versions.push(Vec::new());
                ids.len() - 1
            });
            Need { plugin, id, specifier, set: set_of(specifier, &versions[plugin]) }
        };
        let mut needs = Vec::new();
        for versions in offers.values() {
            let of_one = |needs: &&'a Needs| {
                let wanted = needs.iter().filter(|(_, dependency)| optional || !dependency.optional);
                let all = wanted.map(|(id, dependency)| (need(id, &dependency.version), dependency.optional));
                // What is optional and not there is not missed.
                all.filter(|(need, optional)| !optional || need.set != Set::empty()).map(|(need, _)| need).collect()
            };
            needs.push(versions.values().map(of_one).collect());
        }
        let root = wanted.iter().map(|(id, specifier)| need(id, specifier)).collect();
        needs.resize_with(ids.len(), Vec::new);
        Self { ids, versions, needs, root }
    }

    fn solve(&self) -> Result<BTreeMap<PluginId, Version>, Unresolvable> {
        match pubgrub::resolve(self, ROOT, 0_u32) {
            Ok(chosen) => Ok(chosen
                .into_iter()
                .filter(|(plugin, _)| *plugin != ROOT)
                .map(|(plugin, version)| (self.ids[plugin].clone(), self.versions[plugin][version as usize].clone()))
                .collect()),
            Err(PubGrubError::NoSolution(tree)) => Err(Unresolvable::Unmet { sentences: self.explain(&tree) }),
            Err(
                PubGrubError::ErrorRetrievingDependencies { source: never, .. }
                | PubGrubError::ErrorChoosingVersion { source: never, .. }
                | PubGrubError::ErrorInShouldCancel(never),
            ) => match never {},
        }
    }

    fn needs_of(&self, plugin: usize, version: u32) -> &[Need<'a>] {
        if plugin == ROOT { &self.root } else { &self.needs[plugin][version as usize] }
    }

    /// Who needs what of those that are in the way of a solution, from the wish on, as sentences.
    fn explain(&self, tree: &DerivationTree<usize, Set, &'static str>) -> Vec<String> {
        let (mut edges, mut open) = (Vec::new(), vec![tree]);
        // A tree may share branches, so it is bounded by the steps and not by how large it is.
        for _ in 0..10_000 {
            match open.pop() {
                Some(DerivationTree::Derived(derived)) => open.extend([&*derived.cause2, &*derived.cause1]),
                Some(DerivationTree::External(External::FromDependencyOf(plugin, set, needed, _))) => {
                    if let Some(who) = self.wishes(*plugin, set, *needed)
                        && !edges.contains(&(*plugin, who, *needed))
                    {
                        edges.push((*plugin, who, *needed));
                    }
                }
                Some(DerivationTree::External(_)) => {}
                None => break,
            }
        }
        let (mut sentences, mut reached) = (Vec::new(), vec![ROOT]);
        let mut at = 0;
        while let Some(plugin) = reached.get(at).copied() {
            at += 1;
            for (who, version, needed) in edges.iter().filter(|(who, ..)| *who == plugin) {
                let Some(need) = self.need_of(*who, *version, *needed) else { continue };
                sentences.push(self.wish(*who, *version, need));
                if need.set == Set::empty() {
                    sentences.push(self.offer(*needed));
                }
                if !reached.contains(needed) {
                    reached.push(*needed);
                }
            }
        }
        sentences.truncate(SENTENCES_MAX);
        sentences
    }

    fn need_of(&self, plugin: usize, version: u32, needed: usize) -> Option<&Need<'a>> {
        self.needs_of(plugin, version).iter().find(|need| need.plugin == needed)
    }

    /// The highest of these versions that needs that.
    fn wishes(&self, plugin: usize, set: &Set, needed: usize) -> Option<u32> {
        let all = if plugin == ROOT { 0..1 } else { 0..self.versions[plugin].len() as u32 };
        all.rev().find(|version| {
            (plugin == ROOT || set.contains(version)) && self.need_of(plugin, *version, needed).is_some()
        })
    }

    fn wish(&self, plugin: usize, version: u32, need: &Need<'_>) -> String {
        if plugin == ROOT {
            return format!("{} {} is wanted", need.id, need.specifier);
        }
        let who = self.versions[plugin][version as usize];
        format!("{} {who} needs {} {}", self.ids[plugin], need.id, need.specifier)
    }

    fn offer(&self, plugin: usize) -> String {
        let there: Vec<_> = self.versions[plugin].iter().map(ToString::to_string).collect();
        match there.as_slice() {
            [] => format!("there is no {}", self.ids[plugin]),
            there => format!("of {} there is {}", self.ids[plugin], there.join(", ")),
        }
    }
}

/// The versions that a specifier takes: those that match, or else the pre-releases in its range.
fn set_of(specifier: &Specifier, versions: &[&Version]) -> Set {
    let of = |fits: &dyn Fn(&Version) -> bool| {
        let numbered = (0_u32..).zip(versions);
        numbered
            .filter(|(_, version)| fits(version))
            .fold(Set::empty(), |set, (number, _)| set.union(&Set::from_range_bounds(number..number + 1)))
    };
    let matching = of(&|version| specifier.matches(version));
    if matching == Set::empty() { of(&|version| specifier.admits(version)) } else { matching }
}

impl DependencyProvider for Problem<'_> {
    type P = usize;
    type V = u32;
    type VS = Set;
    type M = &'static str;
    type Err = Infallible;
    type Priority = (u32, std::cmp::Reverse<usize>, std::cmp::Reverse<usize>);

    fn prioritize(&self, plugin: &usize, set: &Set, conflicts: &PackageResolutionStatistics) -> Self::Priority {
        // First who was in conflicts, then who has least choice; the place settles the rest, so that it is the same each time.
        let versions = self.versions.get(*plugin).map_or(1, Vec::len) as u32;
        let choice = (0..versions).filter(|version| set.contains(version)).count();
        (conflicts.conflict_count(), std::cmp::Reverse(choice), std::cmp::Reverse(*plugin))
    }

    fn choose_version(&self, plugin: &usize, set: &Set) -> Result<Option<u32>, Infallible> {
        if *plugin == ROOT {
            return Ok(Some(0));
        }
        // The highest; a pre-release only where nothing else is left.
        let versions = &self.versions[*plugin];
        let fits = |release: bool| {
            let all = 0..versions.len() as u32;
            all.rev().find(|version| set.contains(version) && versions[*version as usize].pre.is_empty() == release)
        };
        Ok(fits(true).or_else(|| fits(false)))
    }

    fn get_dependencies(
        &self,
        plugin: &usize,
        version: &u32,
    ) -> Result<Dependencies<usize, Set, &'static str>, Infallible> {
        let needs = self.needs_of(*plugin, *version).iter().map(|need| (need.plugin, need.set.clone()));
        Ok(Dependencies::Available(needs.collect::<DependencyConstraints<_, _>>()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `id version` with what it needs: `other specifier`, optional with a `?` behind the id.
    type Written<'a> = &'a [(&'a str, &'a str, &'a [(&'a str, &'a str)])];

    fn id(text: &str) -> PluginId {
        PluginId::parse(text).unwrap()
    }

    fn resolved(written: Written<'_>, wanted: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let all: Vec<_> = written
            .iter()
            .map(|(name, version, needs)| {
                let need = |(name, specifier): &(&str, &str)| {
                    let (version, optional) = (Specifier::parse(specifier).unwrap(), name.ends_with('?'));
                    (id(name.trim_end_matches('?')), Dependency { version, optional, reason: None })
                };
                (id(name), Version::parse(version).unwrap(), needs.iter().map(need).collect::<Needs>())
            })
            .collect();
        let mut offers = Offers::new();
        for (id, version, needs) in &all {
            offers.entry(id).or_default().insert(version, needs);
        }
        let wanted = wanted.iter().map(|(name, text)| (id(name), Specifier::parse(text).unwrap())).collect();
        let solved = resolve(&offers, &wanted).map_err(|error| error.to_string())?;
        Ok(solved.into_iter().map(|(id, version)| format!("{id} {version}")).collect())
    }

    #[test]
    fn each_gets_the_highest_that_suits_all() {
        let offers: Written<'_> = &[
            ("a", "1.0.0", &[("b", "^1"), ("c", "*")]),
            ("b", "1.0.0", &[]),
            ("b", "1.5.0", &[("c", "<2")]),
            ("b", "2.0.0", &[]),
            ("c", "1.0.0", &[]),
            ("c", "2.0.0", &[]),
            ("unrelated", "1.0.0", &[("missing", "*")]),
        ];
        assert_eq!(resolved(offers, &[("a", "*")]).unwrap(), ["a 1.0.0", "b 1.5.0", "c 1.0.0"]);
        assert_eq!(resolved(offers, &[("b", "*")]).unwrap(), ["b 2.0.0"]);
        assert_eq!(resolved(offers, &[]).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_missing_is_named_with_the_way_to_it() {
        let offers: Written<'_> = &[
            ("a", "1.0.0", &[("b", "^1")]),
            ("b", "1.0.0", &[("c", "^3")]),
            ("c", "1.0.0", &[]),
            ("d", "1.0.0", &[("e", "*")]),
        ];
        assert_eq!(
            resolved(offers, &[("a", "*")]).unwrap_err(),
            "a * is wanted; a 1.0.0 needs b ^1; b 1.0.0 needs c ^3; of c there is 1.0.0"
        );
        let error = resolved(offers, &[("d", "*")]).unwrap_err();
        assert_eq!(error, "d * is wanted; d 1.0.0 needs e *; there is no e");
        assert_eq!(resolved(offers, &[("b", "^9")]).unwrap_err(), "b ^9 is wanted; of b there is 1.0.0");
    }

    #[test]
    fn who_is_in_conflict_is_named() {
        let offers: Written<'_> = &[
            ("a", "1.0.0", &[("b", "*"), ("c", "*")]),
            ("b", "1.0.0", &[("d", "^1")]),
            ("c", "1.0.0", &[("d", "^2")]),
            ("d", "1.0.0", &[]),
            ("d", "2.0.0", &[]),
        ];
        let error = resolved(offers, &[("a", "*")]).unwrap_err();
        for sentence in
            ["a * is wanted", "a 1.0.0 needs b *", "a 1.0.0 needs c *", "b 1.0.0 needs d ^1", "c 1.0.0 needs d ^2"]
        {
            assert!(error.contains(sentence), "{error}");
        }
    }

    #[test]
    fn a_cycle_is_named() {
        let offers: Written<'_> =
            &[("a", "1.0.0", &[("b", "*")]), ("b", "1.0.0", &[("c", "*")]), ("c", "1.0.0", &[("a", "*")])];
        assert_eq!(resolved(offers, &[("a", "*")]).unwrap_err(), "dependency cycle: a -> b -> c -> a");
    }

    #[test]
    fn what_is_optional_holds_where_it_can() {
        let offers: Written<'_> = &[
            ("a", "1.0.0", &[("b?", "^1"), ("missing?", "*")]),
            ("b", "1.0.0", &[]),
            ("b", "2.0.0", &[]),
            ("other", "1.0.0", &[("b", "^2")]),
        ];
        assert_eq!(resolved(offers, &[("a", "*"), ("b", "*")]).unwrap(), ["a 1.0.0", "b 1.0.0"]);
        let both = [("a", "*"), ("other", "*")];
        assert_eq!(resolved(offers, &both).unwrap(), ["a 1.0.0", "b 2.0.0", "other 1.0.0"], "it gives way");
    }

    #[test]
    fn pre_releases_are_the_last_resort() {
        let offers: Written<'_> = &[("a", "1.0.0-rc.1", &[]), ("b", "1.0.0-rc.1", &[]), ("b", "0.9.0", &[])];
        assert_eq!(resolved(offers, &[("a", "*"), ("b", "*")]).unwrap(), ["a 1.0.0-rc.1", "b 0.9.0"]);
    }

    proptest! {
        /// Whatever comes out suits everybody in it.
        #[test]
        fn what_is_chosen_suits_all_who_need_it(
            needs in prop::collection::vec(prop::collection::vec((0_usize..6, 0_u64..4), 0..3), 18),
        ) {
            let names = ["p0", "p1", "p2", "p3", "p4", "p5"].map(id);
            let need = |(to, major): &(usize, u64)| {
                let version = Specifier::parse(&format!(">={major}")).unwrap();
                (names[*to].clone(), Dependency { version, optional: false, reason: None })
            };
            let all: Vec<_> = needs
                .iter()
                .enumerate()
                .map(|(number, needs)| {
                    let needs = needs.iter().filter(|(to, _)| *to != number / 3).map(need).collect::<Needs>();
                    (&names[number / 3], Version::new(number as u64 % 3 + 1, 0, 0), needs)
                })
                .collect();
            let mut offers = Offers::new();
            for (id, version, needs) in &all {
                offers.entry(*id).or_default().insert(version, needs);
            }
            let wanted = BTreeMap::from([(names[0].clone(), Specifier::any())]);
            match resolve(&offers, &wanted) {
                Ok(chosen) => {
                    prop_assert!(chosen.contains_key(&names[0]));
                    for (id, version) in &chosen {
                        for (needed, dependency) in offers[id][version] {
                            prop_assert!(dependency.version.matches(&chosen[needed]), "{id} {version}");
                        }
                    }
                }
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
