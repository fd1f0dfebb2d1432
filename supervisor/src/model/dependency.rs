//! In which order plugins start and stop.
//!
//! A dependency starts before and stops after what depends on it. The order comes in waves: what is in one wave may start
//! at once.
//!
//! Invariants: the order is the same for the same graph; no recursion, so that a long chain is only long.
//! Elsewhere: whether a dependency is installed at all, and at which version, is resolved by the registry; an id that is
//! not in the graph is not waited for here.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::PluginId;

/// What each plugin depends on.
pub type Graph = BTreeMap<PluginId, BTreeSet<PluginId>>;

/// Plugins that wait for each other. The first is named again at the end, as one reads a circle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("dependency cycle: {}", display(.cycle))]
pub struct Cycle {
    pub cycle: Vec<PluginId>,
}

fn display(cycle: &[PluginId]) -> String {
    cycle.iter().map(PluginId::as_str).collect::<Vec<_>>().join(" -> ")
}

/// The waves in which to start, dependencies first.
pub fn start_order(graph: &Graph) -> Result<Vec<Vec<PluginId>>, Cycle> {
    let mut open: BTreeMap<&PluginId, BTreeSet<&PluginId>> =
        graph.iter().map(|(id, needs)| (id, needs.iter().filter(|need| graph.contains_key(*need)).collect())).collect();
    let mut waves = Vec::new();
    while !open.is_empty() {
        let wave: Vec<&PluginId> = open.iter().filter(|(_, needs)| needs.is_empty()).map(|(id, _)| *id).collect();
        if wave.is_empty() {
            return Err(find_cycle(&open));
        }
        for id in &wave {
            open.remove(id);
        }
        for needs in open.values_mut() {
            for id in &wave {
                needs.remove(id);
            }
        }
        waves.push(wave.into_iter().cloned().collect());
    }
    Ok(waves)
}

/// The waves in which to stop, dependants first.
pub fn stop_order(graph: &Graph) -> Result<Vec<Vec<PluginId>>, Cycle> {
    let mut waves = start_order(graph)?;
    waves.reverse();
    Ok(waves)
}

/// Everything that would notice the loss of `id`, near and far.
pub fn dependants(graph: &Graph, id: &PluginId) -> BTreeSet<PluginId> {
    let mut found = BTreeSet::new();
    let mut fresh = vec![id];
    while let Some(next) = fresh.pop() {
        for (dependant, needs) in graph {
            if needs.contains(next) && dependant != id && found.insert(dependant.clone()) {
                fresh.push(dependant);
            }
        }
    }
    found
}

/// Every plugin left needs another one that is left, so following any of them must return somewhere.
fn find_cycle(open: &BTreeMap<&PluginId, BTreeSet<&PluginId>>) -> Cycle {
    let mut path: Vec<&PluginId> = Vec::new();
    let mut next = open.keys().next().copied();
    while let Some(id) = next {
        if let Some(place) = path.iter().position(|seen| *seen == id) {
            path.drain(..place);
            path.push(id);
            break;
        }
        path.push(id);
        next = open.get(id).and_then(|needs| needs.iter().find(|need| open.contains_key(**need)).copied());
    }
    Cycle { cycle: path.into_iter().cloned().collect() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let id = |text: &str| PluginId::parse(text).unwrap();
        edges.iter().map(|(from, to)| (id(from), to.iter().map(|to| id(to)).collect())).collect()
    }

    fn names(waves: Vec<Vec<PluginId>>) -> Vec<String> {
        waves.iter().map(|wave| wave.iter().map(PluginId::as_str).collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn dependencies_start_first_and_stop_last() {
        let graph = graph(&[("web", &["db", "log"]), ("db", &["log"]), ("log", &[]), ("echo", &[])]);
        assert_eq!(names(start_order(&graph).unwrap()), ["echo log", "db", "web"]);
        assert_eq!(names(stop_order(&graph).unwrap()), ["web", "db", "echo log"]);
    }

    #[test]
    fn a_cycle_is_named_without_what_merely_leads_to_it() {
        let graph = graph(&[("a", &["b"]), ("b", &["c"]), ("c", &["d"]), ("d", &["b"]), ("free", &[])]);
        assert_eq!(start_order(&graph).unwrap_err().to_string(), "dependency cycle: b -> c -> d -> b");
    }

    #[test]
    fn a_plugin_that_needs_itself_is_a_cycle() {
        assert_eq!(start_order(&graph(&[("a", &["a"])])).unwrap_err().to_string(), "dependency cycle: a -> a");
    }

    #[test]
    fn what_is_not_in_the_graph_is_not_waited_for() {
        assert_eq!(names(start_order(&graph(&[("a", &["absent"])])).unwrap()), ["a"]);
        assert!(start_order(&Graph::new()).unwrap().is_empty());
    }

    #[test]
    fn dependants_are_found_near_and_far() {
        let graph = graph(&[("a", &["b"]), ("b", &["c"]), ("c", &[]), ("d", &[])]);
        let found = dependants(&graph, &PluginId::parse("c").unwrap());
        assert_eq!(found.iter().map(PluginId::as_str).collect::<Vec<_>>(), ["a", "b"]);
    }

    proptest! {
        #[test]
        fn an_order_respects_every_edge_and_a_cycle_is_one(edges in prop::collection::vec((0..8u8, 0..8u8), 0..20)) {
            let id = |n: u8| PluginId::parse(&format!("p{n}")).unwrap();
            let mut graph: Graph = (0..8).map(|n| (id(n), BTreeSet::new())).collect();
            for (from, to) in edges {
                graph.entry(id(from)).or_default().insert(id(to));
            }
            match start_order(&graph) {
                Ok(waves) => {
                    let place = |id: &PluginId| waves.iter().position(|wave| wave.contains(id)).unwrap();
                    prop_assert_eq!(waves.iter().map(Vec::len).sum::<usize>(), graph.len());
                    for (from, needs) in &graph {
                        for need in needs {
                            prop_assert!(place(need) < place(from));
                        }
                    }
                }
                Err(Cycle { cycle }) => {
                    prop_assert!(2 <= cycle.len() && cycle.first() == cycle.last());
                    for pair in cycle.windows(2) {
                        prop_assert!(graph[&pair[0]].contains(&pair[1]));
                    }
                }
            }
        }
    }
}
