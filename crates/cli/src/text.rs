//! Texts of a server as a terminal may show them.

use std::io::{self, Write};

/// The text without control characters, which could make a terminal do things; line ends and tabs stay.
pub(crate) fn printable(text: &str) -> String {
    let is_harmless = |c: char| c == '\n' || c == '\t' || !(c.is_control() || is_bidi_control(c));
    text.replace("\r\n", "\n").chars().map(|c| if is_harmless(c) { c } else { '\u{fffd}' }).collect()
}

/// Characters that make text read in another order than it is written.
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text without these, wherever they stand.
pub(crate) fn without(secrets: &[String], text: &str) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), HIDDEN))
}

/// What stands where something is not shown.
pub(crate) const HIDDEN: &str = "(redacted)";

/// Prints on standard output. Whoever reads it may have read enough, which `print!` panics at.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The first line of a text, cut to `width` characters.
pub(crate) fn line(text: &str, width: usize) -> String {
    let text = printable(text);
    let first = text.trim().lines().next().unwrap_or_default().trim_end().replace('\t', " ");
    if first.chars().count() <= width {
        return first;
    }
    let kept: String = first.chars().take(width.saturating_sub(3)).collect();
    format!("{}...", kept.trim_end())
}

/// Rows under a heading, their columns aligned; the last column is as long as it is.
pub(crate) fn table(heading: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    format!("{heading}\n{}", rows.iter().map(line).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_move_the_cursor_is_replaced() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc\td"), "a\u{fffd}[2Jb\nc\td");
        assert_eq!(printable("file\u{202e}txt.exe"), "file\u{fffd}txt.exe");
    }

    #[test]
    fn a_line_is_cut_between_characters() {
        assert_eq!(line("  Größe \nmore", 20), "Größe");
        assert_eq!(line("Größenangaben", 8), "Größe...");
    }
}
