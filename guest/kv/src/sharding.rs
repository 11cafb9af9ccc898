//! The setting `sharding`: which shard owns a key.

use ostrakon_guest::{Settings, sharding};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sharding {
    /// By the first character, as in the course's client.
    #[default]
    Modulo,
    /// By the whole key, so that few keys move when the number of shards changes.
    Jump,
}

impl Sharding {
    pub(crate) fn from_settings(settings: Settings) -> Result<Self, String> {
        match settings.text("sharding")?.as_deref() {
            None | Some("modulo") => Ok(Self::Modulo),
            Some("jump") => Ok(Self::Jump),
            Some(other) => Err([
                "setting `sharding` is `",
                other,
                "`: it can be `modulo` or `jump`",
            ]
            .concat()),
        }
    }

    pub(crate) fn version(self) -> u32 {
        match self {
            Self::Modulo => 1,
            Self::Jump => 2,
        }
    }

    pub(crate) fn owner(self, key: &[u8], shards: u32) -> u32 {
        match self {
            Self::Modulo => sharding::modulo(key, shards),
            Self::Jump => sharding::jump(key, shards),
        }
    }
}
