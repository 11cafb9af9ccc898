//! Sets the number of shards in the projected ConfigMap, because there is no API server here to
//! report another number.

use bytes::Bytes;
use toml_edit::{DocumentMut, Item, Table, value};

use super::Files;

const NAME: &str = "ostrakon.toml";

/// The files with `cluster.shards` set in `ostrakon.toml`. Comments and everything else stay as
/// they are. A file that is not valid TOML is unchanged, too: the shards report what is wrong with
/// it.
pub(super) fn with_shards(files: &Files, shards: u32) -> Files {
    let mut files = files.clone();
    let text = files.get(NAME).map_or(&[][..], |content| content);
    let set = std::str::from_utf8(text)
        .ok()
        .and_then(|text| set(text, shards));
    if let Some(text) = set {
        files.insert(NAME.to_owned(), Bytes::from(text));
    }
    files
}

/// Whether `ostrakon.toml` itself sets the number of shards.
pub(super) fn says_shards(files: &Files) -> bool {
    let text = files
        .get(NAME)
        .and_then(|text| std::str::from_utf8(text).ok());
    let document = text.and_then(|text| text.parse::<DocumentMut>().ok());
    document.is_some_and(|document| {
        let cluster = document.get("cluster");
        cluster.is_some_and(|cluster| cluster.get("shards").is_some())
    })
}

fn set(text: &str, shards: u32) -> Option<String> {
    let mut document: DocumentMut = text.parse().ok()?;
    let cluster = document
        .entry("cluster")
        .or_insert(Item::Table(Table::new()));
    let cluster = cluster.as_table_like_mut()?;
    match cluster.get_mut("shards").and_then(Item::as_value_mut) {
        Some(former) => {
            let decor = former.decor().clone();
            *former = i64::from(shards).into();
            *former.decor_mut() = decor;
        }
        None => {
            cluster.insert("shards", value(i64::from(shards)));
        }
    }
    if let Some(topology) = cluster.get_mut("topology").and_then(Item::as_value_mut) {
        let decor = topology.decor().clone();
        *topology = "settings".into();
        *topology.decor_mut() = decor;
    }
    Some(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: &str, after: &str) {
        let files = Files::from([(NAME.to_owned(), Bytes::from(before.to_owned()))]);
        let set = with_shards(&files, 5);
        assert_eq!(std::str::from_utf8(&set[NAME]).unwrap(), after);
    }

    #[test]
    fn the_number_is_set_and_all_else_stays() {
        check("", "[cluster]\nshards = 5\n");
        check(
            "# a\n[log] # b\nfilter = 'x'\n",
            "# a\n[log] # b\nfilter = 'x'\n\n[cluster]\nshards = 5\n",
        );
        check(
            "[cluster]\nmax_wait = '1s' # a\nshards = 1 # b\n",
            "[cluster]\nmax_wait = '1s' # a\nshards = 5 # b\n",
        );
        check(
            "[cluster]\nmax_wait = '1s'\n",
            "[cluster]\nmax_wait = '1s'\nshards = 5\n",
        );
        check("cluster.shards = 1\n", "cluster.shards = 5\n");
        check("cluster = { shards = 1 }\n", "cluster = { shards = 5 }\n");
        check(
            "[cluster]\nshards = 1\ntopology = 'statefulset' # in Kubernetes\n",
            "[cluster]\nshards = 5\ntopology = \"settings\" # in Kubernetes\n",
        );
    }

    #[test]
    fn it_is_known_whether_the_file_says_the_number_itself() {
        let says =
            |text: &'static str| says_shards(&Files::from([(NAME.to_owned(), Bytes::from(text))]));
        assert!(says("[cluster]\nshards = 1\n"));
        assert!(says("cluster.shards = 1\n"));
        assert!(!says("[cluster]\nmax_wait = '1s'\n"));
        assert!(!says("[cluster"));
        assert!(!says_shards(&Files::new()));
    }

    #[test]
    fn what_cannot_be_set_is_left_to_the_shards_to_refuse() {
        for text in ["[cluster", "cluster = 3\n"] {
            check(text, text);
        }
    }

    #[test]
    fn without_the_file_it_is_made() {
        assert!(with_shards(&Files::new(), 2).contains_key(NAME));
    }
}
