//! What a misspelt name was probably meant to be.

/// The candidate that `name` resembles most, if it resembles any closely enough to be worth a suggestion.
pub(crate) fn nearest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let lower = name.to_lowercase();
    // A third of the letters may be wrong: enough for a slip, too little to turn one short name into any other.
    let distance_max = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= distance_max && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_names_are_suggested_and_distant_ones_are_not() {
        let names = ["sqrt", "sin", "floor", "pi", "e"];
        assert_eq!(nearest("sqr", names), Some("sqrt"));
        assert_eq!(nearest("SIN", names), Some("sin"));
        assert_eq!(nearest("flor", names), Some("floor"));
        assert_eq!(nearest("folor", names), Some("floor"));
        assert_eq!(nearest("Pi", names), Some("pi"));
        assert_eq!(nearest("x", names), None);
        assert_eq!(nearest("flag", names), None);
        assert_eq!(nearest("velocity", names), None);
    }
}
