//! The shard's ordinal, from the Pod's name where it is not given.

use std::env;
use std::fs;

use ostrakon_settings::settings::MAX_SHARDS;

/// The file with the host name; in a Pod, that is the Pod's name.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the name of a StatefulSet's Pod, such as `kv-0` to `kv-{max}`: give --ordinal, or set POD_NAME",
    max = MAX_SHARDS - 1
)]
pub(super) struct NoOrdinal(String);

/// The ordinal of this Pod: from `POD_NAME`, or else from the host name.
pub(super) fn of_this_pod() -> Result<u32, NoOrdinal> {
    of(&pod_name())
}

/// This Pod's name: `POD_NAME`, or else the host name.
pub(super) fn pod_name() -> String {
    let name = env::var("POD_NAME").or_else(|_| fs::read_to_string(HOST_NAME));
    name.unwrap_or_default().trim().to_owned()
}

/// The number after the last `-` of a Pod's name, if it is a valid ordinal.
fn of(name: &str) -> Result<u32, NoOrdinal> {
    name.rsplit_once('-')
        .filter(|(set, digits)| !set.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|(_, digits)| digits.parse().ok())
        .filter(|ordinal| *ordinal < MAX_SHARDS)
        .ok_or_else(|| NoOrdinal(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_after_the_last_dash_is_the_ordinal() {
        for (name, ordinal) in [("kv-0", 0), ("my-kv-17", 17), ("kv-1023", 1023)] {
            assert_eq!(of(name), Ok(ordinal), "{name}");
        }
        for name in [
            "",
            "kv",
            "kv-",
            "-3",
            "kv-x",
            "kv-+1",
            "kv-1024",
            "kv-4294967296",
            "kv-6f9-abcde",
        ] {
            assert_eq!(of(name), Err(NoOrdinal(name.to_owned())), "{name}");
        }
    }
}
