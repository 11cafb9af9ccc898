use std::fmt::{Debug, Write as _};
use std::net::Ipv4Addr;

use ostrakon_protocol::{Cursor, Generation, Ordinal, Trial};
use ostrakon_shard::survey::Amount;
use ostrakon_test_support::later::with_more_fields;

use super::*;

/// The messages of protocol version 2, recorded when it was new: each line has a name and
/// hexadecimal digits.
const RECORDED: &str = include_str!("recorded.2");

/// The same for messages with fields that were added later.
const RECORDED_WITH_MORE: &str = include_str!("recorded.2.more");

/// This is why a partition may take at most half of a message.
#[test]
fn a_partition_of_the_smallest_entries_takes_less_than_twice_its_bytes() {
    let key = |number: u32| number.to_be_bytes()[1..].to_vec();
    let entries: Vec<_> = (0..300_000).map(|at| (key(at), Vec::new())).collect();
    let bytes = entries.len() * 3;
    let partition = Whole {
        partition: vec![b'p'; 1024],
        entries,
    };
    let message = encode(&[Partition::from(partition.clone())]);
    assert!(
        message.len() < 2 * bytes - 65_536,
        "{} for {bytes}",
        message.len()
    );
    let [back]: [Partition; 1] = decode(&message).unwrap();
    assert_eq!(back.unpack(), Some(partition));
}

fn placement(shards: u32) -> Placement {
    Placement {
        shards,
        owner: Digest::of(b"owner"),
        sharding: 3,
    }
}

fn plan() -> Plan {
    Plan::first(ClusterId(u128::MAX - 98), placement(3), true)
}

fn hand_off() -> HandOff {
    HandOff {
        epoch: Epoch(7),
        source: Ordinal(1),
        to: Ordinal(2),
        cursor: Cursor::Through(vec![0, 127, 128, 255]),
        number: 4,
    }
}

fn headers() -> Vec<(String, Bytes)> {
    vec![("x-some".to_owned(), Bytes::from_static(b"\xff of it"))]
}

fn client_request() -> ForwardedRequest {
    ForwardedRequest {
        method: "POST".to_owned(),
        path: "/notes?of=me".to_owned(),
        headers: headers(),
        body: Bytes::from(vec![200; 300]),
        client: [255, 0, 1, 2, 3, 4, 5, 6],
        seed: None,
        at_least: None,
    }
}

fn reply() -> ForwardedReply {
    ForwardedReply {
        status: 201,
        headers: headers(),
        body: Bytes::from_static(b"made"),
    }
}

fn source() -> Source {
    Source {
        shard: Ordinal(1),
        epoch: Epoch(7),
        left: Some(12),
        moved: 4,
        stayed: 5,
        rate: Some(2.5),
        seconds_left: None,
        resumed: true,
        held_up_by: vec![Ordinal(2)],
    }
}

fn files() -> BTreeMap<String, Bytes> {
    let file = |name: &str, content: &'static [u8]| (name.to_owned(), Bytes::from_static(content));
    BTreeMap::from([
        file("guest.wasm", b"\0asm"),
        file("ostrakon.toml", b"# none"),
    ])
}

fn process() -> Process {
    Process {
        incarnation: Incarnation(9),
        store: u128::MAX - 1,
    }
}

fn ip() -> IpAddr {
    Ipv4Addr::new(10, 1, 2, 3).into()
}

/// One request of each kind; a new kind does not compile until it is listed here.
fn requests() -> Vec<(&'static str, PeerRequest)> {
    use PeerRequest as R;
    let requests = vec![
        R::Forward {
            request: client_request(),
            hand_off: Some(hand_off()),
            plan: plan(),
            wait_ms: 2500,
        },
        R::Plan {},
        R::Hold {},
        R::Part {
            request: client_request(),
        },
        R::Schema {},
        R::UsePlan { plan: plan() },
        R::Receive {
            plan: plan(),
            batch: Batch {
                number: 3,
                store: 0x0123_4567_89ab_cdef,
                hand_off: hand_off(),
            },
            schema: 2,
            partitions: vec![
                Whole {
                    partition: vec![255, 0],
                    entries: vec![(vec![1], vec![2; 200]), (vec![], vec![])],
                }
                .into(),
            ],
        },
        R::Done {
            epoch: Epoch(7),
            progress: Some(source()),
        },
        R::Progress {},
        R::Survey {
            shards: 4,
            basis: Basis::Kept {
                placement: placement(4),
            },
        },
        R::Survey {
            shards: 5,
            basis: Basis::Trial { files: files() },
        },
        R::Generation {
            digest: Digest::of(b"generation"),
        },
        R::Accepted {},
        R::HasGiven { epoch: Epoch(7) },
        R::Addresses {},
        R::Releases {},
        R::News {},
        R::HoldRequests {
            candidate: candidate(),
            hold: 2,
            within_ms: 500,
        },
        R::IsHeld {
            candidate: candidate(),
            hold: 2,
        },
        R::LetRequests {
            candidate: candidate(),
            hold: 2,
        },
        R::Rehearse {
            files: files(),
            terms: Terms {
                time_ms: 10_000,
                requests: 1000,
                share: 100_000,
                differ: Some(vec!["/news".to_owned()]),
                show_data: true,
            },
        },
        R::Served {
            generations: vec![12, 13],
        },
    ];
    requests
        .into_iter()
        .map(|request| (name_of(&request), request))
        .collect()
}

fn name_of(request: &PeerRequest) -> &'static str {
    use PeerRequest as R;
    match request {
        R::Forward { .. } => "Forward",
        R::Plan {} => "Plan",
        R::Hold {} => "Hold",
        R::Part { .. } => "Part",
        R::Schema {} => "Schema",
        R::UsePlan { .. } => "UsePlan",
        R::Receive { .. } => "Receive",
        R::Done { .. } => "Done",
        R::Progress {} => "Progress",
        R::Survey { basis, .. } => match basis {
            Basis::Kept { .. } => "Survey.Kept",
            Basis::Trial { .. } => "Survey.Trial",
        },
        R::Generation { .. } => "Generation",
        R::Accepted {} => "Accepted",
        R::HasGiven { .. } => "HasGiven",
        R::Addresses {} => "Addresses",
        R::Releases {} => "Releases",
        R::News {} => "News",
        R::HoldRequests { .. } => "HoldRequests",
        R::IsHeld { .. } => "IsHeld",
        R::LetRequests { .. } => "LetRequests",
        R::Rehearse { .. } => "Rehearse",
        R::Served { .. } => "Served",
    }
}

fn candidate() -> Candidate {
    Candidate {
        digest: Digest::of(b"candidate"),
        by: Incarnation(5),
        attempt: Attempt(3),
    }
}

/// One response of each kind; a new kind does not compile until it is listed here.
#[expect(clippy::too_many_lines, reason = "one list")]
fn responses() -> Vec<(&'static str, PeerResponse)> {
    use PeerResponse as R;
    let reason = || "why".to_owned();
    let moved = Moved {
        epoch: Epoch(7),
        store: 5,
        given: Some(BTreeMap::from([(Ordinal(2), 3)])),
        taken: BTreeMap::from([(Ordinal(0), (u128::MAX, 6))]),
    };
    let responses = vec![
        R::Answer {
            generation: Some(3),
            reply: reply(),
        },
        R::Elsewhere {
            at: 2,
            hand_off: Some(hand_off()),
            plan: plan(),
        },
        R::Part {
            moved,
            reply: reply(),
            origin: None,
        },
        R::PartRefused { reply: reply() },
        R::Schema { schema: Some(4) },
        R::Later { reason: reason() },
        R::NotUnderstood { reason: reason() },
        R::Plan { plan: Some(plan()) },
        R::Progress {
            source: Some(source()),
        },
        R::Survey {
            owners: Owners::from([(
                1,
                Amount {
                    partitions: 2,
                    bytes: 300,
                },
            )]),
        },
        R::Acknowledged {
            number: 3,
            was_long: true,
            rest_ms: 0,
        },
        R::Done {},
        R::Superseded {
            by: Incarnation(10),
        },
        R::Foreign {
            cluster: ClusterId(77),
        },
        R::Generation {
            files: Some(files()),
        },
        R::Accepted {
            accepted: Some(Accepted {
                process: process(),
                silent_ms: Some(1500),
            }),
        },
        R::Outdated {},
        R::Addresses {
            addresses: vec![Address {
                ordinal: 2,
                ip: ip(),
            }],
        },
        R::Releases {
            known: Some(Release {
                cluster: ClusterId(99),
                maker: Incarnation(5),
                live: Generation {
                    number: 12,
                    digest: Digest::of(b"generation"),
                },
                held: None,
                trial: None,
            }),
            has_asked: true,
            candidate: Some(candidate()),
            said: Some(Said {
                candidate: candidate(),
                says: Says::Refused,
                step: Some("check".to_owned()),
                reason: Some("why".to_owned()),
            }),
            goes_back: false,
        },
        R::Rehearsed {
            findings: "{}".to_owned(),
        },
        R::Served {
            release: Some(Release {
                cluster: ClusterId(99),
                maker: Incarnation(5),
                live: Generation {
                    number: 12,
                    digest: Digest::of(b"generation"),
                },
                held: None,
                trial: Some(Trial {
                    candidate: Generation {
                        number: 13,
                        digest: Digest::of(b"candidate"),
                    },
                    turn: 3,
                    share: 100_000,
                    names_some: false,
                    paused: true,
                }),
            }),
            served: vec![None, Some(Served::default())],
        },
    ];
    let named = |response: PeerResponse| {
        let name = match &response {
            R::Answer { .. } => "Answer",
            R::Elsewhere { .. } => "Elsewhere",
            R::Part { .. } => "Part",
            R::PartRefused { .. } => "PartRefused",
            R::Schema { .. } => "Schema",
            R::Later { .. } => "Later",
            R::NotUnderstood { .. } => "NotUnderstood",
            R::Plan { .. } => "Plan",
            R::Progress { .. } => "Progress",
            R::Survey { .. } => "Survey",
            R::Acknowledged { .. } => "Acknowledged",
            R::Done {} => "Done",
            R::Superseded { .. } => "Superseded",
            R::Foreign { .. } => "Foreign",
            R::Generation { .. } => "Generation",
            R::Accepted { .. } => "Accepted",
            R::Outdated {} => "Outdated",
            R::Addresses { .. } => "Addresses",
            R::Releases { .. } => "Releases",
            R::Rehearsed { .. } => "Rehearsed",
            R::Served { .. } => "Served",
        };
        (name, response)
    };
    responses.into_iter().map(named).collect()
}

/// The messages that have fields which the first hosts of this protocol version did not know.
fn with_added_fields() -> String {
    let request = PeerRequest::Part {
        request: ForwardedRequest {
            seed: Some(Bytes::from_static(&[129; 32])),
            ..client_request()
        },
    };
    let gone_over = PeerRequest::Part {
        request: ForwardedRequest {
            at_least: Some(12),
            ..client_request()
        },
    };
    let origin = Origin {
        digest: Digest::of(b"generation"),
        name: "polls".to_owned(),
        version: "2.0.0".to_owned(),
        sharding: 3,
        schema: 4,
    };
    let mut responses = responses().into_iter();
    let response = responses.find_map(|(_, response)| match response {
        PeerResponse::Part { moved, reply, .. } => Some(PeerResponse::Part {
            moved,
            reply,
            origin: Some(origin.clone()),
        }),
        _ => None,
    });
    let acknowledged = PeerResponse::Acknowledged {
        number: 3,
        was_long: true,
        rest_ms: 12,
    };
    let goes_back = PeerResponse::Releases {
        known: None,
        has_asked: true,
        candidate: Some(candidate()),
        said: None,
        goes_back: true,
    };
    format!(
        "request Part {}\nresponse Part {}\nresponse Acknowledged {}\nrequest Part {}\nresponse Releases {}\n",
        hex(&encode(&enveloped(request))),
        hex(&encode(&response.unwrap())),
        hex(&encode(&acknowledged)),
        hex(&encode(&enveloped(gone_over))),
        hex(&encode(&goes_back))
    )
}

fn enveloped(request: PeerRequest) -> Envelope<PeerRequest> {
    Envelope {
        cluster: Some(ClusterId(99)),
        accepts: Some(process()),
        request,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// All messages in the format of the recording.
fn record() -> String {
    let requests = requests()
        .into_iter()
        .map(|(name, request)| format!("request {name} {}\n", hex(&encode(&enveloped(request)))));
    let responses = responses()
        .into_iter()
        .map(|(name, response)| format!("response {name} {}\n", hex(&encode(&response))));
    requests.chain(responses).collect()
}

/// Hosts of the same protocol version serve together while Pods are replaced. The encoding may only
/// change with a new version of the protocol, or by a field that earlier hosts ignore. Either
/// change needs a recording of its own in addition to this one.
#[test]
fn messages_are_what_they_were() {
    are_what_they_were(&record(), RECORDED);
    are_what_they_were(&with_added_fields(), RECORDED_WITH_MORE);
}

#[track_caller]
fn are_what_they_were(now: &str, recorded: &str) {
    if now != recorded {
        let path = std::env::temp_dir().join("ostrakon-messages-recorded");
        std::fs::write(&path, now).unwrap();
        let first = now
            .lines()
            .zip(recorded.lines())
            .find(|(now, was)| now != was);
        panic!("{}: these differ first: {first:#?}", path.display());
    }
}

fn is_the_same_with_more<T: Serialize + DeserializeOwned + Debug>(name: &str, message: &T) {
    let bytes = encode(message);
    let back: T = decode(&bytes).unwrap();
    assert_eq!(format!("{back:?}"), format!("{message:?}"), "{name}");
    let later: T =
        decode(&with_more_fields(&bytes)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(format!("{later:?}"), format!("{message:?}"), "{name}");
}

#[test]
fn fields_of_a_later_version_are_passed_over() {
    for (name, request) in requests() {
        is_the_same_with_more(name, &enveloped(request));
    }
    for (name, response) in responses() {
        is_the_same_with_more(name, &response);
    }
}

#[test]
fn what_is_of_no_known_kind_or_cut_short_is_an_error() {
    let unknown = [&b"\x83\xa7cluster\xc0\xa7accepts\xc0\xa7request\x81\xa5Dance\x80"[..]].concat();
    let error = decode::<Envelope<PeerRequest>>(&unknown).unwrap_err();
    assert!(error.to_string().contains("Dance"), "{error}");
    for (name, request) in requests() {
        let bytes = encode(&enveloped(request));
        for length in 0..bytes.len() {
            let cut = decode::<Envelope<PeerRequest>>(&bytes[..length]);
            assert!(cut.is_err(), "{name} of {length} bytes");
        }
    }
    for (name, response) in responses() {
        let bytes = encode(&response);
        for length in 0..bytes.len() {
            let cut = decode::<PeerResponse>(&bytes[..length]);
            assert!(cut.is_err(), "{name} of {length} bytes");
        }
    }
}
