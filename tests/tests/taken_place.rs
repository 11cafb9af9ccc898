//! A peer that claims to be a later process of another shard, so that the others call it instead.
//! It is trusted with data, but it decides nothing for the others.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ostrakon_peers::{Connection, Credentials, Endpoint, Handler, Identity, Token, Tokens, serve};
use ostrakon_protocol::{ClusterId, Placement, Plan};
use ostrakon_tests::client::Client;
use ostrakon_tests::host::{Host, config, guest};
use ostrakon_tests::name_server::NameServer;
use ostrakon_tests::network::alone;
use ostrakon_tests::peer::{Envelope, PeerRequest, PeerResponse, encode, plan_of};
use ostrakon_tests::pods::{LETTERS, Pods, TOKEN};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tokio::sync::watch;

const ROGUE: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
const PATIENCE: Duration = Duration::from_mins(2);

/// Answers every request with a plan.
struct Liar {
    plan: Plan,
    asked: AtomicU64,
}

impl Handler for Liar {
    async fn call(&self, _: Identity, _: Bytes) -> Bytes {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let plan = Some(self.plan.clone());
        encode(&PeerResponse::Plan { plan }).into()
    }
}

fn endpoint(ordinal: u32, incarnation: u64) -> Endpoint {
    let token = Token::new(TOKEN.into()).expect("it is one");
    let credentials = Credentials {
        tokens: Tokens::new(vec![token]),
        ..Credentials::default()
    };
    let (_kept, credentials) = watch::channel(Arc::new(credentials));
    let identity = Identity {
        ordinal,
        incarnation,
        store: 0xbad,
    };
    Endpoint::new(identity, credentials)
}

/// Requests a shard's plan from the rogue's address, under an identity.
async fn ask(to: SocketAddr, as_whom: &Endpoint, cluster: Option<ClusterId>) -> Bytes {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((ROGUE, 0).into()).expect("it has that address");
    let stream = socket.connect(to).await.expect("a connection");
    let connection = Connection::open(stream, as_whom, None).await;
    let connection = connection.expect("it has the token");
    let request = encode(&Envelope {
        cluster,
        accepts: None,
        request: PeerRequest::Plan {},
    });
    let said = connection.request(request.into()).await;
    said.expect("an answer")
}

fn epoch(host: &Host) -> u64 {
    let status = host.status();
    status["topology"]["epoch"]
        .as_u64()
        .expect("the text is a number")
}

fn save_and_load(through: SocketAddr, letter: char) -> bool {
    let get = |path: &str| {
        let answer = Client::new(through).get(path);
        answer.is_ok_and(|answer| (answer.status, answer.text()) == (200, "word"))
    };
    get(&format!("/save/{letter}/word")) && get(&format!("/load/{letter}"))
}

#[test]
fn a_peer_that_takes_a_shards_place_gives_no_plan() {
    let test = "a_peer_that_takes_a_shards_place_gives_no_plan";
    alone(test, |network| {
        let names = NameServer::start(true);
        let toml = "[cluster]\nshards = 3\nmax_wait = \"2s\"\n[drain]\nserve_for = \"1s\"\n";
        let files = config(&guest("kv"), &[("ostrakon.toml", toml)]);
        let mut pods = Pods::start(network, names.clone(), 3, &files);
        pods.wait_for(3);
        let public = [0, 1, 2].map(|pod| pods.pod(pod).host().address);
        for letter in LETTERS {
            assert!(save_and_load(public[0], letter));
        }
        let peers = [1, 2].map(|pod: usize| SocketAddr::from((public[pod].ip(), 7070)));

        network.add(ROGUE);
        let runtime = Runtime::new().expect("a runtime can be created");
        let said = runtime.block_on(ask(peers[0], &endpoint(900, 1), None));
        let plan = plan_of(&said);
        // A possible next plan, which gives all of shard 2's partitions to others.
        let mut lie = plan.clone();
        lie.epoch.0 += 1;
        lie.to = Placement {
            shards: 2,
            ..plan.to
        };
        let status = pods.pod(0).host().status();
        let own = status["topology"]["incarnation"]
            .as_u64()
            .expect("the text is a number");
        let rogue = endpoint(0, own + 1000);
        let liar = Arc::new(Liar {
            plan: lie,
            asked: AtomicU64::new(0),
        });
        let (down, shutdown) = watch::channel(false);
        let serving = runtime.spawn({
            let (rogue, liar) = (rogue.clone(), Arc::clone(&liar));
            async move {
                let listener = TcpListener::bind((ROGUE, 7070)).await.expect("it listens");
                while let Ok((stream, _)) = listener.accept().await {
                    let (rogue, liar) = (rogue.clone(), Arc::clone(&liar));
                    let shutdown = shutdown.clone();
                    tokio::spawn(async move { serve(stream, &rogue, liar, shutdown).await });
                }
            }
        });
        for to in peers {
            runtime.block_on(ask(to, &rogue, Some(plan.cluster)));
        }
        // Both others call it instead of shard 0, again and again.
        let began = Instant::now();
        while liar.asked.load(Ordering::Relaxed) < 10 {
            assert!(began.elapsed() < PATIENCE, "the peer was not called");
            thread::sleep(Duration::from_millis(20));
        }
        let asked = liar.asked.load(Ordering::Relaxed);
        println!("it was asked {asked} times within {:?}", began.elapsed());
        for pod in [1, 2] {
            assert_eq!(epoch(pods.pod(pod).host()), plan.epoch.0, "shard {pod}");
        }
        for letter in ['a', 'b'] {
            assert!(
                save_and_load(public[1], letter),
                "{letter} does not belong to shard 0"
            );
        }

        serving.abort();
        down.send_replace(true);
        network.remove(ROGUE);
        drop(runtime);
        // In time the cache forgets that shard 0's name was unknown at first.
        names.forget();
        // The real shard 0 is started again, and the cluster works as before.
        pods.end_by_itself(0, 76);
        pods.restart(0);
        let began = Instant::now();
        for (letter, through) in LETTERS.into_iter().flat_map(|l| public.map(|p| (l, p))) {
            while !save_and_load(through, letter) {
                names.forget();
                assert!(began.elapsed() < PATIENCE, "{letter} through {through}");
            }
        }
        for pod in [0, 1, 2] {
            assert_eq!(epoch(pods.pod(pod).host()), plan.epoch.0, "shard {pod}");
        }
    });
}
