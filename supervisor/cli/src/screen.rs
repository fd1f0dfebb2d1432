//! What reaches the terminal: text that cannot misuse it, colours only where they are wanted, columns that stand beneath each
//! other.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The last column of a table is not cut shorter than this.
const LAST_COLUMN_MIN: usize = 12;

/// What the streams are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    pub(crate) stdout_is_terminal: bool,
    pub(crate) stderr_is_terminal: bool,
    pub(crate) colours: bool,
    /// How many columns stdout has, where that is known.
    pub(crate) width: Option<usize>,
}

/// As much is shown of a name that was given; the daemon shows no more of one either.
const NAME_SHOWN_BYTES_MAX: usize = 200;

/// A name, cut where it is longer than a message should be, which is marked.
pub(crate) fn short(name: &str) -> Cow<'_, str> {
    let cut = name.floor_char_boundary(NAME_SHOWN_BYTES_MAX);
    if cut < name.len() { format!("{}…", &name[..cut]).into() } else { name.into() }
}

/// So many of them: `1 key`, `2 keys`.
pub(crate) fn counted(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// What a line on stderr is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    Error,
    Warning,
    /// It stands beneath its error, without repeating the program's name.
    Hint,
}

impl Label {
    fn word(self) -> (&'static str, Tone) {
        match self {
            Self::Error => ("error", Tone::Bad),
            Self::Warning => ("warning", Tone::Careful),
            Self::Hint => ("hint", Tone::Strong),
        }
    }
}

/// How a piece of text is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Bad,
    Careful,
    Faint,
    Strong,
}

impl Tone {
    /// The tone of one of the nine states.
    pub(crate) fn of_state(state: &str) -> Self {
        match state {
            "active" => Self::Good,
            "failed" => Self::Bad,
            "paused" | "stopping" => Self::Careful,
            "discovered" | "stopped" | "unloaded" => Self::Faint,
            _ => Self::Plain,
        }
    }

    fn escape(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[31m",
            Self::Careful => "\x1b[33m",
            Self::Faint => "\x1b[2m",
            Self::Strong => "\x1b[1m",
        }
    }
}

impl Screen {
    pub(crate) fn new() -> Self {
        // As no-color.org says: present and not empty.
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
            colours: !unwanted,
            width: rustix::termios::tcgetwinsize(io::stdout())
                .ok()
                .map(|size| usize::from(size.ws_col))
                .filter(|columns| *columns > 0),
        }
    }

    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { stdout_is_terminal: false, stderr_is_terminal: false, colours: false, width: None }
    }

    /// Text for stdout in its tone.
    pub(crate) fn tone(&self, text: &str, tone: Tone) -> String {
        paint(text, tone, self.colours && self.stdout_is_terminal)
    }

    /// `palisade: error: …`, further lines of the text indented, so that none of them passes for a line of this program's own.
    pub(crate) fn labelled(&self, label: Label, text: &str) -> String {
        let (word, tone) = label.word();
        let word = paint(word, tone, self.colours && self.stderr_is_terminal);
        let text = text.replace('\n', "\n    ");
        match label {
            Label::Hint => format!("{word}: {text}"),
            Label::Error | Label::Warning => format!("palisade: {word}: {text}"),
        }
    }

    pub(crate) fn error_line(&self, text: &str) -> io::Result<()> {
        writeln!(io::stderr().lock(), "{text}")
    }

    /// As [`Screen::table`], with the last column cut where the terminal ends.
    pub(crate) fn fitting_table(&self, heading: &[&str], rows: &[Vec<Cell>]) -> String {
        let Some(width) = self.width else { return self.table(heading, rows) };
        let columns = heading.len();
        let before: usize = (0..columns.saturating_sub(1))
            .map(|column| {
                let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.width());
                cells.chain([heading[column].width()]).max().unwrap_or(0) + 2
            })
            .sum();
        // A column too narrow to say anything is left to wrap.
        let room = width.saturating_sub(before).max(LAST_COLUMN_MIN);
        let mut rows = rows.to_vec();
        for cell in rows.iter_mut().filter_map(|row| row.get_mut(columns - 1)) {
            if room < cell.text.width() {
                while room < cell.text.width() + 1 && cell.text.pop().is_some() {}
                cell.text.push('…');
            }
        }
        self.table(heading, &rows)
    }

    /// Text in the lines that it takes beside what stands `before` it, where the width is known.
    pub(crate) fn lines(&self, text: &str, before: usize) -> Vec<String> {
        match self.width {
            Some(width) => wrap(text, width.saturating_sub(before).max(LAST_COLUMN_MIN)),
            None => vec![text.to_owned()],
        }
    }

    /// As [`Screen::table`], with the text of all columns but the first continued beneath itself where the terminal is too narrow.
    pub(crate) fn wrapping_table(&self, heading: &[&str], rows: &[Vec<Cell>]) -> String {
        let Some(width) = self.width else { return self.table(heading, rows) };
        let mut widths: Vec<usize> = heading.iter().map(|title| title.width()).collect();
        for row in rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = cell.text.width().max(*widest);
            }
        }
        let gaps = 2 * heading.len().saturating_sub(1);
        // The widest gives way, as it can best; a column too narrow to say anything is left to the terminal to wrap.
        while width < widths.iter().sum::<usize>() + gaps {
            let widest = widths.iter_mut().skip(1).max_by_key(|width| **width);
            match widest.filter(|width| LAST_COLUMN_MIN < **width) {
                Some(widest) => *widest -= 1,
                None => break,
            }
        }
        let mut lines = Vec::new();
        for row in rows {
            let wrapped: Vec<Vec<String>> =
                row.iter().zip(&widths).map(|(cell, width)| wrap(&cell.text, *width)).collect();
            for line in 0..wrapped.iter().map(Vec::len).max().unwrap_or(0) {
                let text = |column: usize| wrapped[column].get(line).cloned().unwrap_or_default();
                lines.push(
                    row.iter().enumerate().map(|(column, cell)| Cell { text: text(column), tone: cell.tone }).collect(),
                );
            }
        }
        self.table(heading, &lines)
    }

    /// Lines whose columns stand beneath each other, two blanks apart. The first row is the heading.
    pub(crate) fn table(&self, heading: &[&str], rows: &[Vec<Cell>]) -> String {
        let columns = heading.len();
        let mut widths: Vec<usize> = heading.iter().map(|title| title.width()).collect();
        for row in rows {
            for (column, cell) in row.iter().take(columns).enumerate() {
                widths[column] = widths[column].max(cell.text.width());
            }
        }
        let mut text = String::new();
        let titles: Vec<Cell> = heading.iter().map(|title| Cell::new(*title, Tone::Strong)).collect();
        for row in std::iter::once(&titles).chain(rows) {
            let last = row.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or(0);
            for (column, cell) in row.iter().enumerate().take(last + 1) {
                text.push_str(&self.tone(&cell.text, cell.tone));
                if column < last {
                    let gap = widths[column] - cell.text.width() + 2;
                    text.extend(std::iter::repeat_n(' ', gap));
                }
            }
            text.push('\n');
        }
        text
    }
}

fn paint(text: &str, tone: Tone, colours: bool) -> String {
    if !colours || tone == Tone::Plain || text.is_empty() {
        return text.to_owned();
    }
    format!("{}{text}\x1b[0m", tone.escape())
}

/// Text in lines of at most so many columns, cut between words where that is possible.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut room = width;
    for word in text.split_inclusive(' ') {
        if room < word.trim_end().width() && room < width {
            lines.push(String::new());
            room = width;
        }
        for character in word.chars() {
            let needed = character.width().unwrap_or(0);
            if room < needed && character != ' ' {
                lines.push(String::new());
                room = width;
            }
            if let Some(line) = lines.last_mut() {
                line.push(character);
            }
            room = room.saturating_sub(needed);
        }
    }
    for line in &mut lines {
        line.truncate(line.trim_end().len());
    }
    lines
}

/// One field of a table.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A field; what would break the line is made visible.
    pub(crate) fn new(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { text: one_line(text.as_ref()), tone }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Text from elsewhere that cannot move the cursor or change the terminal: control characters other than line ends and tabs are
/// written out.
pub(crate) fn harmless(text: &str) -> String {
    escape(text, |character| !matches!(character, '\n' | '\t'))
}

/// The same on one line.
pub(crate) fn one_line(text: &str) -> String {
    escape(text, |_| true)
}

fn escape(text: &str, unwanted: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        // Of the others, those that turn the direction of writing could show something other than what is there.
        let turns = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if turns || (character.is_control() && unwanted(character)) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|number| counted(number, "key")), ["0 keys", "1 key", "2 keys"]);
    }

    #[test]
    fn what_comes_from_elsewhere_cannot_drive_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\nc\td\u{9b}e\x7f"), "a\\u{1b}[2Jb\nc\td\\u{9b}e\\u{7f}");
        assert_eq!(harmless("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(one_line("a\nb"), "a\\nb");
        assert_eq!(harmless("žluťoučký 🐎"), "žluťoučký 🐎");
    }

    #[test]
    fn columns_stand_beneath_each_other_whatever_is_in_them() {
        let rows = vec![
            vec!["echo".into(), Cell::new("active", Tone::Good), "1 h".into()],
            vec!["日本".into(), Cell::new("failed\n", Tone::Bad), "".into()],
        ];
        insta::assert_snapshot!(Screen::plain().table(&["PLUGIN", "STATE", "SINCE"], &rows), @r"
        PLUGIN  STATE     SINCE
        echo    active    1 h
        日本    failed\n
        ");
    }

    #[test]
    fn what_is_too_long_for_the_terminal_is_cut_in_the_last_column() {
        let rows = vec![vec!["echo".into(), "The smallest plugin: answers".into()], vec!["a".into(), "short".into()]];
        let screen = Screen { width: Some(24), ..Screen::plain() };
        insta::assert_snapshot!(screen.fitting_table(&["PLUGIN", "DESCRIPTION"], &rows), @r"
        PLUGIN  DESCRIPTION
        echo    The smallest pl…
        a       short
        ");
        let screen = Screen { width: Some(3), ..Screen::plain() };
        assert!(screen.fitting_table(&["PLUGIN", "DESCRIPTION"], &rows).contains("The smalles…"));
        assert!(Screen::plain().fitting_table(&["PLUGIN", "DESCRIPTION"], &rows).contains("answers"));
    }

    #[test]
    fn what_is_too_long_for_the_terminal_is_continued_beneath_itself() {
        let rows = vec![
            vec!["echo".into(), "one two".into(), "Returns what it was given, and averyverylongwordthatis cut".into()],
            vec!["a".into(), "".into(), "short".into()],
        ];
        let screen = Screen { width: Some(32), ..Screen::plain() };
        insta::assert_snapshot!(screen.wrapping_table(&["ACTION", "TRAITS", "DESCRIPTION"], &rows), @r"
        ACTION  TRAITS   DESCRIPTION
        echo    one two  Returns what it
                         was given, and
                         averyverylongwo
                         rdthatis cut
        a                short
        ");
        for width in 1..100 {
            let screen = Screen { width: Some(width), ..Screen::plain() };
            let table = screen.wrapping_table(&["ACTION", "TRAITS", "DESCRIPTION"], &rows);
            assert!(table.lines().all(|line| line.width() <= width.max(30)), "{width}: {table}");
        }
        assert_eq!(wrap("日本日本", 5), ["日本", "日本"]);
        assert_eq!(wrap("a  b", 1), ["a", "b"]);
        assert_eq!(wrap("", 5), [""]);
    }

    #[test]
    fn colours_only_on_a_terminal() {
        let mut screen = Screen { stdout_is_terminal: true, stderr_is_terminal: true, colours: true, width: None };
        assert_eq!(screen.tone("up", Tone::Good), "\x1b[32mup\x1b[0m");
        assert_eq!(screen.labelled(Label::Error, "no"), "palisade: \x1b[31merror\x1b[0m: no");
        screen.colours = false;
        assert_eq!(screen.tone("up", Tone::Good), "up");
        screen = Screen { stdout_is_terminal: false, stderr_is_terminal: false, colours: true, width: None };
        assert_eq!(screen.tone("up", Tone::Good), "up");
        assert_eq!(screen.labelled(Label::Error, "no"), "palisade: error: no");
        assert_eq!(screen.labelled(Label::Hint, "do"), "hint: do");
        assert_eq!(screen.labelled(Label::Error, "no\nhint: pay"), "palisade: error: no\n    hint: pay");
        assert_eq!(screen.labelled(Label::Hint, "do\n\nthis"), "hint: do\n    \n    this");
    }
}
