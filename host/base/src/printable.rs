//! Makes untrusted text safe to print on one line.

use std::fmt::{self, Write};

/// Shows a text on one line. Line ends, control codes, and characters that hide text or change
/// its direction are written as escapes.
///
/// Guests, clients, peers and file names are untrusted: their text must not pass for the host's
/// own in a log or on a screen.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaping(formatter).write_str(self.0)
    }
}

/// A writer that forwards text to another writer and escapes characters that are not printable.
pub struct Escaping<W>(pub W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut from = 0;
        for (at, letter) in text
            .char_indices()
            .filter(|(_, letter)| !is_printable(*letter))
        {
            self.0.write_str(&text[from..at])?;
            write!(self.0, "{}", letter.escape_default())?;
            from = at + letter.len_utf8();
        }
        self.0.write_str(&text[from..])
    }
}

/// Whether a character is visible, does not affect its neighbours, and ends no line.
pub fn is_printable(letter: char) -> bool {
    if letter.is_ascii() {
        return !letter.is_ascii_control();
    }
    !letter.is_control()
        && !matches!(
            letter,
            // Soft hyphen; direction marks and isolates; zero-width characters.
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                // Variation selectors, and tags, which can carry a whole text invisibly.
                | '\u{fe00}'..='\u{fe0f}' | '\u{e0000}'..='\u{e01ef}'
                // Hangul fillers: letters without a glyph.
                | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_is_there() {
        for (text, shown) in [
            (
                "plain, \"quoted\" and \\ as they are",
                "plain, \"quoted\" and \\ as they are",
            ),
            ("größer 漢字 🦪", "größer 漢字 🦪"),
            ("a\r\nb\tc\0", "a\\r\\nb\\tc\\u{0}"),
            (
                "\x1b[31mred\x7f\u{85}\u{9b}",
                "\\u{1b}[31mred\\u{7f}\\u{85}\\u{9b}",
            ),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("\u{202e}gpj.exe\u{2066}", "\\u{202e}gpj.exe\\u{2066}"),
            (
                "a\u{200b}b\u{feff}c\u{e0041}",
                "a\\u{200b}b\\u{feff}c\\u{e0041}",
            ),
        ] {
            assert_eq!(Printable(text).to_string(), shown);
        }
    }
}
