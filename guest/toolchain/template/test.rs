//! The service, run in memory: the same code as in WebAssembly, with the host's rules.

use {{library}}::Service;
use ostrakon_guest::testing::{TestCluster, TestShard};

#[test]
fn each_visit_counts_on_its_page() {
    let mut shard = TestShard::<Service>::new().start().unwrap();
    assert_eq!(shard.get("/visits/home").text(), "0");
    assert_eq!(shard.post("/visits/home", "").text(), "1");
    assert_eq!(shard.post("/visits/home", "").text(), "2");
    assert_eq!(shard.get("/visits/about").text(), "0");
}

#[test]
fn visits_move_with_their_page_to_more_shards() {
    let mut cluster = TestCluster::start(3, TestShard::<Service>::new).unwrap();
    cluster.ask(0).post("/visits/home", "");
    cluster.scale(5);
    assert_eq!(cluster.ask(4).get("/visits/home").text(), "1");
}

#[test]
fn the_greeting_is_a_setting() {
    let shard = TestShard::<Service>::new().setting("greeting", "hello");
    assert_eq!(shard.start().unwrap().get("/").text(), "hello\n");
}
