//! Reads the tables in the documentation, which tests compare with the code.

/// The part of a page below a heading, up to the next one.
///
/// # Panics
/// When the page has no such heading.
pub fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, below) = page
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("the page has no {heading}"));
    below.split("\n#").next().unwrap_or_default()
}

/// The cells of each row of a page's first table with this head, such as `| code | status |`.
///
/// # Panics
/// When the page has no such table.
pub fn rows<'a>(page: &'a str, head: &str) -> Vec<Vec<&'a str>> {
    let mut lines = page.lines().skip_while(|line| !line.starts_with(head));
    assert!(lines.next().is_some(), "the page has no table {head}");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let row = row.trim_start_matches('|').trim_end_matches('|');
        row.split('|').map(str::trim).collect()
    })
    .collect()
}

/// The code spans of a text.
pub fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The errors that a guest's source makes with a code and a status of its own, such as
/// `bad_key 400`. Its tests are left out.
pub fn errors(source: &str) -> impl Iterator<Item = String> {
    let (code, _) = source.split_once("#[cfg(test)]").unwrap_or((source, ""));
    code.split("::new(").skip(1).filter_map(|arguments| {
        let (status, rest) = arguments.split_once(',')?;
        let status: u16 = status.trim().parse().ok()?;
        let code = rest.trim_start().strip_prefix('"')?.split('"').next()?;
        Some(format!("{code} {status}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Top\n\n## One\n\n| a | b |\n| --- | --- |\n| `x`, `y` | |\n| z | `1` |\n\n## Two\n\n| a | c |\n| --- | --- |\n| 2 | 3 |\n";

    #[test]
    fn a_table_is_found_by_its_head_and_its_section() {
        assert_eq!(rows(PAGE, "| a |"), [["`x`, `y`", ""], ["z", "`1`"]]);
        assert_eq!(rows(PAGE, "| a | c |"), [["2", "3"]]);
        assert_eq!(rows(section(PAGE, "## Two"), "| a |"), [["2", "3"]]);
        assert!(!section(PAGE, "## One").contains("## Two"));
        assert!(code("`x`, `y` z").eq(["x", "y"]));
    }

    #[test]
    fn errors_are_found_with_their_codes_and_none_of_tests() {
        let source = "Error::new(400, \"bad\", x); Vec::new(); Self::new(\n 503,\n \"gone\", y)\n#[cfg(test)] Error::new(500, \"z\", 1)";
        assert!(errors(source).eq(["bad 400", "gone 503"]));
    }

    #[test]
    #[should_panic(expected = "the page has no table | b |")]
    fn a_table_that_is_not_there_is_no_empty_table() {
        rows(PAGE, "| b |");
    }
}
