//! Images: each a partition of its own, which never changes after it was stored.

use std::{cmp::Reverse, time::Duration};

use ostrakon_guest::{Error, Part, Response, Result, html::escape, router::Call};
use serde::{Deserialize, Serialize};

use crate::{
    Magazine,
    article::date,
    page::Page,
    reader::{before, pages},
};

const PREFIX: &str = "image/";
/// Images on a page of the list.
const PAGE_SIZE: usize = 60;
/// The most images that one shard looks at for the list, which takes about 0.1 s.
const MOST: usize = 10_000;

/// What is stored of an image beside its bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct About {
    content_type: String,
    bytes: usize,
    uploaded: Duration,
}

/// An image in a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Listed {
    id: String,
    about: About,
}

/// The partition of an image.
pub(crate) fn partition(id: &str) -> Result<Vec<u8>> {
    if is_id(id) {
        Ok([PREFIX, id].concat().into_bytes())
    } else {
        Err(no_image())
    }
}

pub(crate) fn is_id(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase() || byte == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(is_part)
}

impl Magazine {
    pub(crate) fn image(&self, call: &Call<'_>) -> Result<Response> {
        let about = about(call)?;
        let id = call.param("id");
        let mut response = Response::bytes(about.content_type, []).versioned(call, id);
        if response.status == 200 {
            response.body = call.store().get("bytes").unwrap_or_default();
        }
        // Its bytes never change, so nobody needs to ask again.
        response
            .headers
            .retain(|header| header.name != "cache-control");
        Ok(response
            .header("cache-control", "public, max-age=31536000, immutable")
            .header("content-security-policy", "default-src 'none'; sandbox"))
    }

    pub(crate) fn upload(&self, call: &Call<'_>) -> Result<Response> {
        let fields = call.multipart()?;
        let file = fields.iter().find(|field| field.name == "image");
        let file = file.filter(|file| !file.body.is_empty());
        let file = file.ok_or_else(|| Error::bad_request("no file was chosen: choose an image"))?;
        let content_type = content_type(file.body).ok_or_else(|| {
            Error::new(
                415,
                "no_image",
                "this file is no PNG, JPEG, WebP or GIF image: choose another one",
            )
        })?;
        store(call, content_type, file.body)?;
        let key = call.partition().unwrap_or_default();
        Ok(Response::see_other(&format!("/editor/images/{}", id(&key))))
    }

    pub(crate) fn uploaded(&self, call: &Call<'_>) -> Result<Response> {
        let About {
            content_type,
            bytes,
            uploaded,
        } = about(call)?;
        let id = call.param("id");
        let main = format!(
            "<h1>Image</h1>\n<img src=\"/images/{id}\" alt=\"The image\">\n\
            <p class=\"about\">{content_type}, {}, {}</p>\n\
            <p>At the top of an article, as its picture: <code>{id}</code></p>\n\
            <p>In its text: <code>![What it shows](/images/{id})</code></p>\n\
            <details><summary>Delete this image</summary>\n<form method=\"post\" action=\"/editor/images/{id}/delete\">\n\
            <p>Articles that show it will show a gap.</p>\n<button class=\"danger\">Delete</button>\n</form></details>\n\
            <p><a href=\"/editor/images\">All images</a></p>\n",
            size(bytes),
            date(uploaded),
        );
        Ok(self.private(Page {
            title: "Image",
            main,
        }))
    }

    pub(crate) fn delete_image(&self, call: &Call<'_>) -> Result<Response> {
        if call.store().delete_many(["about", "bytes"])? == 0 {
            return Err(no_image());
        }
        Ok(Response::see_other("/editor/images"))
    }

    /// The images of one shard.
    pub(crate) fn images_here(&self, call: &Call<'_>) -> Result<Response> {
        let end = before(call)?.unwrap_or(Duration::MAX);
        let shard = call.shard();
        let keys = shard.partitions().prefix(PREFIX).take(MOST);
        let mut images: Vec<_> = keys
            .filter_map(|key| {
                let about = shard.get(&key, "about")?;
                let about: About = serde_json::from_slice(&about).ok()?;
                let id = id(&key);
                (about.uploaded < end).then_some(Listed { id, about })
            })
            .collect();
        newest_first(&mut images);
        // One more than a page has says that there is another.
        images.truncate(PAGE_SIZE + 1);
        Ok(Response::json(&images))
    }

    /// The images of all shards.
    pub(crate) fn images(&self, call: &Call<'_>, parts: Vec<Part>) -> Result<Response> {
        // Of a query that is no page, the shards have no parts.
        before(call)?;
        let mut images = Vec::new();
        for part in parts {
            images.extend(part.json::<Vec<Listed>>()?);
        }
        newest_first(&mut images);
        let has_more = images.len() > PAGE_SIZE;
        images.truncate(PAGE_SIZE);
        let last = images.last().filter(|_| has_more);
        let pages = pages(
            last.map(|last| last.about.uploaded),
            "Older images",
            "/editor/images",
        );
        let shown = images.iter().map(|Listed { id, about }| {
            let (uploaded, size) = (date(about.uploaded), size(about.bytes));
            format!(
                "<li><a href=\"/editor/images/{0}\"><img src=\"/images/{0}\" alt=\"Image {0}\"></a>\n\
                <p class=\"about\">{uploaded}, {size}</p></li>\n",
                escape(id)
            )
        });
        let shown: String = shown.collect();
        let main = format!(
            "<h1>Images</h1>\n\
            <form method=\"post\" action=\"/editor/images\" enctype=\"multipart/form-data\">\n\
            <label for=\"image\">A new image</label>\n\
            <p class=\"hint\" id=\"image-hint\">PNG, JPEG, WebP or GIF, less than 8 MiB</p>\n\
            <input type=\"file\" id=\"image\" name=\"image\" required aria-describedby=\"image-hint\" \
            accept=\"image/png,image/jpeg,image/webp,image/gif\">\n<button>Upload</button>\n</form>\n\
            <h2>All images</h2>\n<ul class=\"images\">\n{shown}</ul>\n{pages}<p><a href=\"/editor\">All articles</a></p>\n"
        );
        Ok(self.private(Page {
            title: "Images",
            main,
        }))
    }
}

/// Stores an image in its partition.
pub(crate) fn store(call: &Call<'_>, content_type: &str, bytes: &[u8]) -> Result<()> {
    let about = About {
        content_type: content_type.to_owned(),
        bytes: bytes.len(),
        uploaded: call.now(),
    };
    call.store().set_json("about", &about)?;
    Ok(call.store().set("bytes", bytes)?)
}

fn about(call: &Call<'_>) -> Result<About> {
    call.store().get_json("about")?.ok_or_else(no_image)
}

fn no_image() -> Error {
    Error::not_found("there is no such image")
}

fn id(partition: &[u8]) -> String {
    let key = String::from_utf8_lossy(partition);
    key.strip_prefix(PREFIX).unwrap_or(&key).to_owned()
}

fn newest_first(images: &mut [Listed]) {
    images.sort_by_key(|image| Reverse((image.about.uploaded, image.id.clone())));
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{}.{} MiB", bytes >> 20, ((bytes % (1 << 20)) * 10) >> 20),
    }
}

/// An image's content type, by its first bytes: what a browser is told that they are, it must be safe to believe.
fn content_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => Some("image/webp"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_what_an_image_is() {
        for (bytes, expected) in [
            (&b"\x89PNG\r\n\x1a\n..."[..], Some("image/png")),
            (b"\xff\xd8\xff\xe0", Some("image/jpeg")),
            (b"RIFF1234WEBPVP8 ", Some("image/webp")),
            (b"GIF87a", Some("image/gif")),
            (b"GIF89a.", Some("image/gif")),
            (b"GIF88a", None),
            (b"RIFF1234WAVE", None),
            (b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>", None),
            (b"<html>", None),
            (b"", None),
        ] {
            assert_eq!(content_type(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(1024), "1 KiB");
        assert_eq!(size(1_600_000), "1.5 MiB");
    }
}
