//! What somebody meant who has mistyped a name.

/// The name among `names` that is most likely meant, if one is close.
#[must_use]
pub fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    const CLOSE: f64 = 0.8;
    names
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(closeness, _)| *closeness > CLOSE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}
