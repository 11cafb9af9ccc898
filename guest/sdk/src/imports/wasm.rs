//! The imports that the host provides.

pub(crate) use crate::bindings::ostrakon::shard::{
    log::write as log_write,
    request::{
        header_values as request_header, headers as request_headers, now as request_now,
        ordinal as request_ordinal, part_generation as request_part_generation,
        partition as request_partition, random as request_random, relax as request_relax,
        shards as request_shards,
    },
    secrets::{Secret as SecretHandle, get as secret},
    settings::{get as settings_get, names as settings_names},
    shard::{
        delete_many as shard_delete_many, get as shard_get, partitions as shard_partitions,
        scan as shard_scan, set_many as shard_set_many,
    },
    store::{
        delete as store_delete, delete_many as store_delete_many, get as store_get,
        get_many as store_get_many, scan as store_scan, set as store_set,
        set_many as store_set_many,
    },
};
