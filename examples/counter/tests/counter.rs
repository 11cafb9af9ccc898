//! The counter example, in memory.

use counter::Counter;
use ostrakon_guest::testing::TestShard;

#[test]
fn each_counter_counts_for_itself() {
    let mut shard = TestShard::<Counter>::new().start().unwrap();
    assert_eq!(shard.get("/visits").text(), "0");
    assert_eq!(shard.post("/visits", "").text(), "1");
    assert_eq!(shard.post("/visits", "").text(), "2");
    assert_eq!(shard.post("/others", "").text(), "1");
    assert_eq!(shard.get("/visits").text(), "2");
}

#[test]
fn other_methods_are_refused() {
    let mut shard = TestShard::<Counter>::new().start().unwrap();
    let reply = shard.delete("/visits");
    assert_eq!(
        (reply.status, reply.header("allow")),
        (405, Some("GET, HEAD, POST"))
    );
}
