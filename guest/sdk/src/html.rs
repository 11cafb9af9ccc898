//! Text in HTML pages.

/// A text as the content of an element or of a quoted attribute.
///
/// ```
/// let name = "<b>\"Ann\" & 'Bob'";
/// let page = format!("<p title=\"{0}\">{0}</p>", ostrakon_guest::html::escape(name));
/// assert_eq!(page.matches('<').count(), 2);
/// ```
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
