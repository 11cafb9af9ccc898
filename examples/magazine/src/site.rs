//! The settings.

use ostrakon_guest::{RequestHead, Settings};

/// What the settings say about the magazine.
pub(crate) struct Site {
    pub(crate) title: String,
    pub(crate) tagline: String,
    /// Where readers find it, without a slash at the end.
    url: Option<String>,
    /// Whether anyone may fill an empty magazine with the demo.
    pub(crate) demo: bool,
    /// Articles on a page.
    pub(crate) page_size: usize,
}

impl Site {
    pub(crate) fn new(settings: Settings) -> Result<Self, String> {
        let line = |name: &str, default: &str| {
            let text = settings.text(name)?;
            let text = text.filter(|text| !text.is_empty());
            let text = text.unwrap_or_else(|| default.to_owned());
            if text.chars().count() > 120 || text.chars().any(char::is_control) {
                return Err(format!(
                    "setting `{name}` is not one line of at most 120 characters"
                ));
            }
            Ok(text)
        };
        let url = settings.text("url")?.filter(|url| !url.is_empty());
        let url = url.map(|url| url.trim_end_matches('/').to_owned());
        if url.as_deref().is_some_and(|url| !is_base(url)) {
            return Err("setting `url` is not like https://magazine.example".to_owned());
        }
        let demo = match settings.text("demo")?.as_deref() {
            None | Some("" | "no") => false,
            Some("yes") => true,
            Some(_) => return Err("setting `demo` is neither `yes` nor `no`".to_owned()),
        };
        let page_size = settings.parsed("page-size")?.unwrap_or(10);
        if !(1..=50).contains(&page_size) {
            return Err("setting `page-size` is not from 1 to 50".to_owned());
        }
        Ok(Self {
            title: line("title", "Salt and Steam")?,
            tagline: line("tagline", "Notes from small kitchens")?,
            url,
            demo,
            page_size,
        })
    }

    /// Whether readers come by HTTPS, so that a cookie must not be sent otherwise.
    pub(crate) fn is_secure(&self) -> bool {
        let url = self.url.as_deref().unwrap_or_default();
        url.starts_with("https://")
    }

    /// Where readers find the magazine: by the settings, or as this request came.
    pub(crate) fn base(&self, head: &RequestHead) -> String {
        if let Some(url) = &self.url {
            return url.clone();
        }
        let host = head.header("host").into_iter().next();
        let host = host.and_then(|host| String::from_utf8(host).ok());
        let base = ["http://", host.as_deref().unwrap_or("localhost")].concat();
        if is_base(&base) {
            base
        } else {
            "http://localhost".to_owned()
        }
    }
}

fn is_base(url: &str) -> bool {
    let host = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(&byte);
    host.is_some_and(|host| !host.is_empty() && host.bytes().all(is_part))
}
