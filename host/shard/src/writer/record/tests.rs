use ostrakon_base::digest::Digest;
use ostrakon_protocol::{
    ClusterId, Cursor, Generation, Incarnation, Ordinal, Placement, Plan, Shard, Trial,
};

use super::super::membership::Membership;
use super::super::promotion::{Live, Made};

/// The records of the first hosts, which have no mark.
const GENERATION_0: &[u8] = include_bytes!("../fixtures/generation.0");
const TOPOLOGY_0: &[u8] = include_bytes!("../fixtures/topology.0");
/// The records of version 1.
const GENERATION_1: &[u8] = include_bytes!("../fixtures/generation.1");
/// The record of a generation that went live by a release; without one, it is of version 1.
const GENERATION_2: &[u8] = include_bytes!("../fixtures/generation.2");
/// The record of one beside which another one serves some of the partitions.
const GENERATION_3: &[u8] = include_bytes!("../fixtures/generation.3");
const TOPOLOGY_1: &[u8] = include_bytes!("../fixtures/topology.1");
/// The number of the store that the records belong to.
const STORE: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;

fn live() -> Live {
    Live {
        number: 7,
        digest: Digest::of(b"all"),
        component: Digest::of(b"component"),
        made: None,
        held: None,
        trial: None,
    }
}

fn released() -> Live {
    let made = Made {
        cluster: ClusterId(u128::MAX - 1),
        by: Incarnation(5),
    };
    Live {
        made: Some(made),
        ..live()
    }
}

/// Another generation serves some of the partitions.
fn in_a_trial() -> Live {
    let candidate = Generation {
        number: 8,
        digest: Digest::of(b"candidate"),
    };
    Live {
        trial: Some(Trial {
            candidate,
            turn: 3,
            share: 100_000,
            names_some: false,
            paused: true,
        }),
        ..released()
    }
}

/// An operator went back to it, in a shard that is alone.
fn gone_back_to() -> Live {
    Live {
        held: Some(Digest::of(b"bad")),
        ..live()
    }
}

/// A shard in the middle of a change.
fn moving() -> Shard {
    let placement = Placement {
        shards: 3,
        owner: Digest::of(b"owner"),
        sharding: 2,
    };
    let mut shard = Shard::new(Ordinal(0));
    shard.start(Incarnation(5));
    let plan = Plan::first(ClusterId(99), placement, true);
    assert_eq!(shard.learn(&plan), Ok(true));
    shard.hear(Ordinal(1), Incarnation(4), 11).unwrap();
    shard.hear(Ordinal(2), Incarnation(1), 12).unwrap();
    shard.step(
        Cursor::Through(b"key".to_vec()),
        &[Ordinal(1), Ordinal(2)].into(),
    );
    shard
}

#[test]
fn each_record_there_has_been_is_read() {
    for stored in [GENERATION_0, GENERATION_1] {
        assert_eq!(Live::decode(stored), Ok(live()));
    }
    assert_eq!(Live::decode(GENERATION_2), Ok(released()));
    assert_eq!(Live::decode(GENERATION_3), Ok(in_a_trial()));
    assert_eq!(Live::decode(&gone_back_to().encode()), Ok(gone_back_to()));
    let both = Live {
        held: gone_back_to().held,
        ..released()
    };
    assert_eq!(Live::decode(&both.encode()), Ok(both.clone()));
    assert_eq!(both.release().expect("it has one").held, both.held);
    let release = released().release().expect("it has one");
    assert_eq!((release.live.number, release.maker), (7, Incarnation(5)));
    for stored in [TOPOLOGY_0, TOPOLOGY_1] {
        let membership = Membership::decode(stored).unwrap();
        assert_eq!((membership.store, membership.shard), (STORE, moving()));
    }
}

/// A change of the stored format needs a new version and a fixture for it.
#[test]
fn what_is_written_is_what_was_written_by_this_version_before() {
    assert_eq!(live().encode(), GENERATION_1);
    assert_eq!(
        String::from_utf8_lossy(&released().encode()),
        String::from_utf8_lossy(GENERATION_2)
    );
    assert_eq!(
        String::from_utf8_lossy(&in_a_trial().encode()),
        String::from_utf8_lossy(GENERATION_3)
    );
    let text = String::from_utf8_lossy(&gone_back_to().encode()[6..]).into_owned();
    let digests = [b"all".as_slice(), b"component", b"bad"].map(Digest::of);
    let [all, component, bad] = digests;
    assert_eq!(
        text,
        format!(r#"{{"number":7,"digest":"{all}","component":"{component}","held":"{bad}"}}"#)
    );
    assert_eq!(gone_back_to().encode()[4..6], [2, 0]);
    assert_eq!(Membership::of(moving(), STORE).encode(), TOPOLOGY_1);
}

#[test]
fn a_later_version_is_told_from_damage_and_nothing_is_guessed() {
    let later = |stored: &[u8]| [&stored[..4], &[9, 0], &stored[6..]].concat();
    let generation = Live::decode(&later(GENERATION_1)).unwrap_err();
    assert_eq!(generation.newer(), Some(9));
    let text = generation.to_string();
    assert!(
        text.contains("is of version 9") && text.contains("reads up to 3"),
        "{text}"
    );
    let topology = Membership::decode(&later(TOPOLOGY_1))
        .map(drop)
        .unwrap_err();
    assert_eq!(topology.newer(), Some(9));

    // One more field at the end, where it could be overlooked.
    let with_more = [TOPOLOGY_1, &[0]].concat();
    let error = Membership::decode(&with_more).map(drop).unwrap_err();
    assert!(
        error.to_string().ends_with("1 bytes are left over"),
        "{error}"
    );
    let with_more = String::from_utf8(GENERATION_0.to_vec()).unwrap();
    let with_more = with_more.replacen('{', "{\"more\":1,", 1);
    let error = Live::decode(with_more.as_bytes()).unwrap_err();
    assert!(
        error.to_string().contains("unknown field `more`"),
        "{error}"
    );

    let mislabelled = [&GENERATION_1[..6], &GENERATION_2[6..]].concat();
    assert!(Live::decode(&mislabelled).is_err());

    for at in 0..GENERATION_1.len() {
        assert!(Live::decode(&GENERATION_1[..at]).is_err(), "{at}");
    }
    for at in 0..TOPOLOGY_1.len() {
        assert!(Membership::decode(&TOPOLOGY_1[..at]).is_err(), "{at}");
    }
}
