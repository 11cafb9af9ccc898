//! The markup of articles, a small part of Markdown, as HTML.
//!
//! All text is escaped, and links and images only go where they cannot do harm. Any text is valid: what is not markup
//! stays as it is. The time taken grows with the text's length only, whatever is in it.

use ostrakon_guest::html::escape;

/// The HTML of a text. Its first heading is of level 2, and no heading skips a level.
pub(crate) fn html(text: &str) -> String {
    let mut html = String::with_capacity(text.len() * 2);
    let mut level = 1;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        if let Some((depth, heading)) = heading(line) {
            level = (depth + 1).min(level + 1);
            html.push_str(&format!("<h{level}>{}</h{level}>\n", inline(heading)));
            continue;
        }
        if let Some((list, first)) = item(line) {
            html.push_str(&format!("<{0}>\n<li>{1}</li>\n", list.tag(), inline(first)));
            while let Some((_, next)) = lines
                .peek()
                .and_then(|line| item(line.trim()))
                .filter(|(next, _)| *next == list)
            {
                html.push_str(&format!("<li>{}</li>\n", inline(next)));
                lines.next();
            }
            html.push_str(&format!("</{}>\n", list.tag()));
            continue;
        }
        let mut paragraph = line.to_owned();
        let goes_on = |line: &&str| {
            !line.trim().is_empty() && heading(line.trim()).is_none() && item(line.trim()).is_none()
        };
        while let Some(line) = lines.next_if(goes_on) {
            paragraph.push('\n');
            paragraph.push_str(line.trim());
        }
        html.push_str(&format!("<p>{}</p>\n", inline(&paragraph)));
    }
    html
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Bullets,
    Numbers,
}

impl List {
    fn tag(self) -> &'static str {
        match self {
            Self::Bullets => "ul",
            Self::Numbers => "ol",
        }
    }
}

/// `# A heading`, with up to three marks.
fn heading(line: &str) -> Option<(usize, &str)> {
    let text = line.trim_start_matches('#');
    let depth = line.len() - text.len();
    let is_heading = (1..=3).contains(&depth) && text.starts_with(' ');
    is_heading.then(|| (depth, text.trim()))
}

/// `- an item` or `1. an item`.
fn item(line: &str) -> Option<(List, &str)> {
    if let Some(text) = line.strip_prefix("- ") {
        return Some((List::Bullets, text.trim()));
    }
    let text = line.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let digits = line.len() - text.len();
    let text = text
        .strip_prefix(". ")
        .filter(|_| (1..=3).contains(&digits))?;
    Some((List::Numbers, text.trim()))
}

/// A mark that opens something, which its closing mark may follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Emphasis,
    Strong,
    Link,
}

/// `*emphasis*`, `**strong**`, `[links](/to/somewhere)`, `![images](/images/id)`, and `\*` for the character itself.
fn inline(text: &str) -> String {
    let mut pieces: Vec<String> = Vec::new();
    // Marks that are not closed yet, each with its piece, and at most one of a kind. A mark that is never closed remains
    // a character.
    let mut open: Vec<(Mark, usize)> = Vec::new();
    let mut rest = text;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let mut taken = first.len_utf8();
        match first {
            '\\' if rest[1..].starts_with(|next: char| next.is_ascii_punctuation()) => {
                pieces.push(escape(&rest[1..2]));
                taken = 2;
            }
            '*' => {
                // Of three marks that close, the first closes what was opened last.
                let closes_one = matches!(open.last(), Some((Mark::Emphasis, _)));
                let is_strong = rest.starts_with("**") && !(closes_one && rest.starts_with("***"));
                let (mark, tag) = if is_strong {
                    (Mark::Strong, "strong")
                } else {
                    (Mark::Emphasis, "em")
                };
                taken = if mark == Mark::Strong { 2 } else { 1 };
                let opened = open.iter().position(|(known, _)| *known == mark);
                let after = rest[taken..].chars().next().unwrap_or(' ');
                match opened {
                    Some(at) if !before.is_whitespace() => {
                        pieces[open[at].1] = format!("<{tag}>");
                        pieces.push(format!("</{tag}>"));
                        // Marks that were opened inside cannot be closed outside.
                        open.truncate(at);
                    }
                    None if !after.is_whitespace() => {
                        open.push((mark, pieces.len()));
                        pieces.push(rest[..taken].to_owned());
                    }
                    _ => pieces.push(rest[..taken].to_owned()),
                }
            }
            '!' if let Some((image, length)) = image(rest) => {
                pieces.push(image);
                taken = length;
            }
            '[' => {
                open.retain(|(mark, _)| *mark != Mark::Link);
                open.push((Mark::Link, pieces.len()));
                pieces.push("[".to_owned());
            }
            ']' if let Some(at) = open.iter().position(|(mark, _)| *mark == Mark::Link)
                && let Some((target, length)) = target(&rest[1..]) =>
            {
                let (_, piece) = open[at];
                open.truncate(at);
                if is_harmless(target) {
                    pieces[piece] = format!("<a href=\"{}\">", escape(target));
                    pieces.push("</a>".to_owned());
                    taken = 1 + length;
                } else {
                    pieces.push("]".to_owned());
                }
            }
            '\n' => pieces.push("\n".to_owned()),
            _ => {
                let is_plain =
                    |character| !matches!(character, '\\' | '*' | '!' | '[' | ']' | '\n');
                let plain = rest[taken..].find(|character| !is_plain(character));
                taken = plain.map_or(rest.len(), |plain| taken + plain);
                pieces.push(escape(&rest[..taken]));
            }
        }
        before = rest[..taken].chars().next_back().unwrap_or(' ');
        rest = &rest[taken..];
    }
    pieces.concat()
}

/// The image at the beginning of a text, and the length of its markup.
fn image(text: &str) -> Option<(String, usize)> {
    let inner = text.strip_prefix("![")?;
    let end = inner.find(['[', ']', '\n'])?;
    let (alt, after) = inner.split_at(end);
    let (target, length) = target(after.strip_prefix(']')?)?;
    // Only images of this magazine: the pages' policy lets browsers load no others.
    let id = target.strip_prefix("/images/")?;
    crate::image::is_id(id).then(|| {
        let image = format!("<img src=\"/images/{id}\" alt=\"{}\">", escape(alt));
        (image, 2 + end + 1 + length)
    })
}

/// The target in parentheses at the beginning of a text, and the length of both. It ends before the next parenthesis or
/// white space, so that all searches together pass over the text once.
fn target(text: &str) -> Option<(&str, usize)> {
    let inner = text.strip_prefix('(')?;
    let end = inner
        .find(|character: char| matches!(character, '(' | ')') || character.is_whitespace())?;
    let is_closed = end > 0 && inner[end..].starts_with(')');
    is_closed.then(|| (&inner[..end], end + 2))
}

/// Whether a link may go there: to a page of this magazine, the web, or a mail.
fn is_harmless(target: &str) -> bool {
    let lower = target.to_ascii_lowercase();
    let elsewhere = ["https://", "http://", "mailto:"];
    // Browsers read `\` as `/`, and `//host` as another site, which should be seen in the link.
    let here = target.starts_with('/') && !target[1..].starts_with(['/', '\\']);
    here || target.starts_with('#') || elsewhere.iter().any(|scheme| lower.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::html;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(html(text).replace('\n', ""), expected, "{text}");
    }

    #[test]
    fn blocks_are_paragraphs_headings_and_lists() {
        check("one\ntwo\n\nthree", "<p>onetwo</p><p>three</p>");
        check(
            "# A\ntext\n## B\n# C",
            "<h2>A</h2><p>text</p><h3>B</h3><h2>C</h2>",
        );
        check(
            "### deep first\n### next",
            "<h2>deep first</h2><h3>next</h3>",
        );
        check(
            "text\n- a\n- b\n1. c\n22. d\nmore",
            "<p>text</p><ul><li>a</li><li>b</li></ul><ol><li>c</li><li>d</li></ol><p>more</p>",
        );
        check(
            "#no\n-no\n1.no\n1234. no\n#### no",
            "<p>#no-no1.no1234. no#### no</p>",
        );
        check("", "");
        check(" \n\t\n", "");
    }

    #[test]
    fn text_can_be_stressed_and_linked() {
        check(
            "a *b* **c** ***d***",
            "<p>a <em>b</em> <strong>c</strong> <strong><em>d</em></strong></p>",
        );
        check(
            "[soup & bread](/articles/soup)",
            "<p><a href=\"/articles/soup\">soup &amp; bread</a></p>",
        );
        check(
            "[*x*](https://a.example/?b=1&c)",
            "<p><a href=\"https://a.example/?b=1&amp;c\"><em>x</em></a></p>",
        );
        check(
            "![a \"bowl\"](/images/0a)",
            "<p><img src=\"/images/0a\" alt=\"a &quot;bowl&quot;\"></p>",
        );
        check(r"\*not\* \[x](/y) \\", r"<p>*not* [x](/y) \</p>");
        check("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>");
    }

    #[test]
    fn what_is_not_markup_stays() {
        for text in [
            "2 * 3 * 4",
            "*open",
            "**open",
            "[a]",
            "[a](",
            "[a]()",
            "[a](b c)",
            "[a](b",
            "a] (b)",
            "![a](b)",
            "!",
            "\\a",
            "* a*",
        ] {
            check(text, &format!("<p>{text}</p>"));
        }
    }

    #[test]
    fn tags_are_well_nested() {
        check("*a **b* c**", "<p><em>a **b</em> c**</p>");
        check("*a [b* c](/d)", "<p><em>a [b</em> c](/d)</p>");
        check("[a *b](/c) d*", "<p><a href=\"/c\">a *b</a> d*</p>");
        check("[a [b](/c)](/d)", "<p>[a <a href=\"/c\">b</a>](/d)</p>");
    }

    #[test]
    fn nothing_that_is_typed_does_harm() {
        check(
            "<script>alert(1)</script>",
            "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>",
        );
        for target in [
            "javascript:alert(1)",
            "JavaScript:x",
            "data:text/html,x",
            "//evil.example",
            "/\\evil.example",
            "evil",
            "vbscript:x",
            "\u{1}javascript:x",
        ] {
            let text = format!("[x]({target})");
            assert!(!html(&text).contains("<a"), "{text}");
        }
        check(
            "[x](/\"onclick=\"y)",
            "<p><a href=\"/&quot;onclick=&quot;y\">x</a></p>",
        );
        for target in [
            "https://evil.example/x.png",
            "/images/../editor",
            "/images/A",
            "/images/a?b",
            "/editor",
        ] {
            let text = format!("![x]({target})");
            assert!(!html(&text).contains("<img"), "{text}");
        }
        check(
            "# <b>\n- <i>\n1. &",
            "<h2>&lt;b&gt;</h2><ul><li>&lt;i&gt;</li></ul><ol><li>&amp;</li></ol>",
        );
    }

    /// Texts that make a parser search again and again would take minutes, not milliseconds.
    #[test]
    fn the_time_grows_with_the_length_only() {
        let began = std::time::Instant::now();
        for mark in [
            "*", "**", "[", "]", "![", "](", "[](", "[*](", "![x](", "*a **b", "[a](b ", "# ",
            "- ", "\\", "a\n",
        ] {
            let text = mark.repeat((1 << 20) / mark.len());
            assert!(html(&text).len() >= text.len() / 2, "{mark}");
        }
        assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    }
}
