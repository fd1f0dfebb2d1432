//! Cutting text to a bound.

/// Cuts `text` to at most `bytes_max` bytes, between characters, and marks the cut.
pub(crate) fn truncate(text: &mut String, bytes_max: usize) {
    const MARK: &str = "…";
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max.saturating_sub(MARK.len())));
        text.push_str(MARK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_falls_between_characters() {
        let mut text = "äöü".to_owned();
        truncate(&mut text, 6);
        assert_eq!(text, "äöü");
        truncate(&mut text, 5);
        assert_eq!(text, "ä…");
    }
}
