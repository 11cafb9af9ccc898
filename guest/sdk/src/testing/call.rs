//! The current call of a guest, which determines what its imports may reach.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use super::World;
use crate::{Generation, Header};

/// The running export.
#[derive(Debug)]
pub(crate) enum Export {
    Describe,
    /// Not an export: the creation of an instance's guest, which can happen in any export except `describe`.
    Start,
    Check,
    Owner,
    Route {
        headers: Vec<Header>,
    },
    /// `handle`, of a request to a partition.
    Partition {
        partition: Vec<u8>,
        write: bool,
        headers: Vec<Header>,
    },
    /// `handle`, of a request to the shard.
    Shard {
        headers: Vec<Header>,
    },
    /// With the generations that gave the parts.
    Gather {
        headers: Vec<Header>,
        generations: BTreeMap<u32, Generation>,
    },
    /// With the partitions that existed when it began.
    Migrate {
        partitions: BTreeSet<Vec<u8>>,
    },
}

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) world: World,
    pub(crate) export: Export,
    /// How many random numbers of eight bytes the guest was given in this call.
    pub(crate) given: u64,
}

thread_local! {
    static CALL: RefCell<Option<Call>> = const { RefCell::new(None) };
}

pub(crate) fn enter(call: Call) {
    CALL.with_borrow_mut(|current| {
        assert!(
            current.replace(call).is_none(),
            "a call of a guest is already running"
        );
    });
}

pub(crate) fn leave() -> Call {
    CALL.take().expect("each `leave` follows an `enter`")
}

/// Passes the current call to an import.
///
/// # Panics
/// Outside of a call: the guest's code runs in a test that has not gone through a `TestShard`.
pub(crate) fn with<T>(import: impl FnOnce(&mut Call) -> T) -> T {
    CALL.with_borrow_mut(|call| {
        import(
            call.as_mut()
                .expect("imports work only in calls of a TestShard"),
        )
    })
}

pub(crate) fn headers(headers: &[(&str, &str)]) -> Vec<Header> {
    headers
        .iter()
        .map(|(name, value)| Header {
            name: name.to_ascii_lowercase(),
            value: (*value).into(),
        })
        .collect()
}
