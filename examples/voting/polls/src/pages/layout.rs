//! What all pages have in common.

use ostrakon_guest::{Response, html::escape};

/// Light and dark colours have a contrast of at least 4.5 to 1 (WCAG AA).
const STYLE: &str = "\
:root{color-scheme:light dark;--text:#1c1e21;--soft:#565d66;--page:#fbfbf9;--line:#d5d7da;--field:#767c85;--accent:#0b5cad;--on:#fff;--bad:#b3261e}\
@media(prefers-color-scheme:dark){:root{--text:#e8e9eb;--soft:#a9b0b9;--page:#17191c;--line:#383c42;--field:#858c96;--accent:#7db8f5;--on:#10151b;--bad:#ff9d94}}\
*{box-sizing:border-box}\
body{margin:0;background:var(--page);color:var(--text);font:1.0625rem/1.55 system-ui,sans-serif;overflow-wrap:anywhere}\
header,main{max-width:42rem;margin:auto;padding:0 1.25rem}\
header{padding-block:1.25rem}nav{display:flex;flex-wrap:wrap;gap:.25rem 1.5rem}\
nav a{font-weight:600;padding:.25rem 0}\
main{padding-bottom:4rem}\
h1{font-size:1.75rem;line-height:1.25;margin:1rem 0 .75rem}\
h2{font-size:1.1875rem;line-height:1.35;margin:0}\
a{color:var(--accent);text-underline-offset:.2em}\
:focus-visible{outline:3px solid var(--accent);outline-offset:2px;border-radius:2px}\
.skip{position:absolute;left:-99rem}.skip:focus{left:1.25rem;top:.25rem}\
.polls{list-style:none;margin:0;padding:0}.polls li,section{border-top:1px solid var(--line);padding:1rem 0}\
.meta,.hint{color:var(--soft);margin:.25rem 0;font-size:.9375rem}.meta::first-letter{text-transform:uppercase}\
.winner{font-size:1.1875rem}\
label,legend{display:block;font-weight:600;margin-top:1.25rem;padding:0}\
fieldset{border:0;margin:1.5rem 0 .5rem;padding:0}\
.choice{display:flex;gap:.75rem;align-items:start;font-weight:400;margin:0;padding:.6rem 0}\
.choice input{width:1.25rem;height:1.25rem;margin:.15rem 0 0;flex:none;accent-color:var(--accent)}\
input:not([type=radio]),textarea,select{width:100%;font:inherit;color:inherit;background:transparent;border:1px solid var(--field);border-radius:.375rem;padding:.55rem .7rem;margin-top:.25rem}\
option{background:var(--page)}\
button,.button{display:inline-block;font:inherit;font-weight:600;text-decoration:none;color:var(--on);background:var(--accent);border:0;border-radius:.375rem;padding:.65rem 1.25rem;margin-top:1.25rem;cursor:pointer}\
.error{color:var(--bad);font-weight:600;margin:.25rem 0}\
table{width:100%;border-collapse:collapse}\
tbody th,td{padding:.5rem 0;vertical-align:top}\
tbody th{text-align:left;font-weight:400}td{text-align:right;width:4rem;white-space:nowrap;font-variant-numeric:tabular-nums}\
.bar{display:block;width:100%;height:.5rem;margin-top:.25rem;background:var(--line);border-radius:.25rem}\
.bar rect{fill:var(--accent)}\
.out{color:var(--soft)}\
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}";

/// Nothing is loaded and no script runs; the style is allowed by its hash.
const POLICY: &str = "default-src 'none'; style-src 'sha256-syhWCHFLxMq5IwxtuQUfTJzhsCF3++VQBOS5C9zk4Wo='; img-src data:; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";

/// A page with this title and main content.
pub(super) fn page(title: &str, main: &str) -> Response {
    let title = escape(title);
    let page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <link rel=\"icon\" href=\"data:,\"><style>{STYLE}</style></head><body>\
         <header><a class=\"skip\" href=\"#main\">Skip to the content</a>\
         <nav aria-label=\"Site\"><a href=\"/\">Polls</a> <a href=\"/results\">Results</a> \
         <a href=\"/polls/new\">New poll</a></nav></header><main id=\"main\">{main}</main></body></html>"
    );
    Response::html(page)
        .header("content-security-policy", POLICY)
        .header("x-content-type-options", "nosniff")
        // With `no-referrer`, browsers would not say from which site a form comes.
        .header("referrer-policy", "same-origin")
        .header("cache-control", "no-store")
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn the_policy_allows_the_style() {
        let hash = base64(&Sha256::digest(STYLE));
        assert!(POLICY.contains(&format!("'sha256-{hash}'")), "{hash}");
    }

    fn base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let bits = (0..3).fold(0, |bits, at| {
                bits << 8 | usize::from(chunk.get(at).copied().unwrap_or(0))
            });
            let digit = |at| char::from(DIGITS[bits >> (18 - 6 * at) & 63]);
            text.extend((0..=chunk.len()).map(digit));
            text.extend((chunk.len()..3).map(|_| '='));
        }
        text
    }
}
