//! The rows, as a table and as JSON.

use std::fmt;
use std::io::IsTerminal;
use std::path::Path;

use serde_json::{Value, json};

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// The value itself.
    AtMost(f64),
    /// The value divided by its floor.
    RatioAtMost(f64),
    /// The same, for what is better the larger it is.
    RatioAtLeast(f64),
    /// Nothing: it helps to read the others.
    None,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::RatioAtMost(ratio) => write!(f, "≤ {ratio} ×"),
            Self::RatioAtLeast(ratio) => write!(f, "≥ {ratio} ×"),
            Self::None => Ok(()),
        }
    }
}

/// One figure. A value that is not a number was not measured.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) floor: Option<f64>,
    pub(crate) target: Target,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.floor.map(|floor| self.value / floor).filter(|ratio| ratio.is_finite())
    }

    fn met(&self) -> Option<bool> {
        match self.target {
            Target::AtMost(limit) => Some(self.value <= limit),
            // What was not measured is not met, and no comparison with it is true.
            Target::RatioAtMost(limit) => Some(self.ratio().is_some_and(|ratio| ratio <= limit)),
            Target::RatioAtLeast(limit) => Some(self.ratio().is_some_and(|ratio| ratio >= limit)),
            Target::None => None,
        }
    }
}

/// All of a run.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
    failures: Vec<String>,
}

impl Table {
    pub(crate) fn extend(&mut self, rows: Vec<Row>) {
        self.rows.extend(rows);
    }

    pub(crate) fn failed(&mut self, names: &[&str], error: &anyhow::Error) {
        self.failures.push(format!("{}: {error:#}", names.join(", ")));
    }

    /// Whether everything could be measured.
    pub(crate) fn is_whole(&self) -> bool {
        self.failures.is_empty()
    }

    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let target = match row.target {
                    Target::None => Value::Null,
                    target => json!(target.to_string()),
                };
                json!({
                    "name": row.name, "value": row.value, "unit": row.unit, "floor": row.floor, "ratio": row.ratio(),
                    "target": target, "met": row.met(),
                })
            })
            .collect();
        let mut text = serde_json::to_string_pretty(&rows)?;
        text.push('\n');
        std::fs::write(path, text)
    }
}

/// Three or four digits that matter.
fn digits(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => "–".into(),
        size if size >= 1000.0 => {
            let whole = format!("{value:.0}");
            let mut grouped = String::new();
            for (index, digit) in whole.chars().enumerate() {
                if index > 0 && digit.is_ascii_digit() && (whole.len() - index).is_multiple_of(3) {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let coloured =
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (red, plain) = if coloured { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
        writeln!(f, "{:<24} {:>12} {:<8} {:>12} {:>8}  {:<10}", "figure", "value", "unit", "floor", "ratio", "target")?;
        for row in &self.rows {
            let floor = row.floor.map(digits).unwrap_or_default();
            let ratio = row.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            let (colour, mark) = match row.met() {
                Some(false) => (red, "  not met"),
                Some(true) => ("", "  met"),
                None => ("", ""),
            };
            let target = row.target.to_string();
            let line = format!(
                "{:<24} {:>12} {:<8} {:>12} {:>8}  {:<10}{mark}",
                row.name,
                digits(row.value),
                row.unit,
                floor,
                ratio,
                target
            );
            writeln!(f, "{colour}{}{plain}", line.trim_end())?;
        }
        for failure in &self.failures {
            writeln!(f, "{red}not measured: {failure}{plain}")?;
        }
        Ok(())
    }
}
