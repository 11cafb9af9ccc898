//! The votes example, in memory.

use ostrakon_guest::testing::TestShard;
use votes::Votes;

#[test]
fn each_voter_has_one_vote() {
    let mut shard = TestShard::<Votes>::new().start().unwrap();
    for (voter, choice) in [
        ("ann", "tea"),
        ("ben", "coffee"),
        ("cem", "tea"),
        ("ben", "tea"),
        ("dan", "water"),
    ] {
        assert_eq!(
            shard.put(&format!("/polls/drinks/{voter}"), choice).status,
            204
        );
    }
    assert_eq!(shard.get("/polls/drinks").text(), r#"{"tea":3,"water":1}"#);
    assert_eq!(
        shard.get("/polls/drinks/ben").text(),
        r#"{"choice":"tea","changes":1}"#
    );
    assert_eq!(shard.delete("/polls/drinks/ann").status, 204);
    assert_eq!(shard.delete("/polls/drinks/ann").status, 404);
    assert_eq!(shard.get("/polls/drinks").text(), r#"{"tea":2,"water":1}"#);
}

#[test]
fn a_tally_scans_beyond_one_page() {
    let mut shard = TestShard::<Votes>::new().start().unwrap();
    for voter in 0..600 {
        shard.put(
            &format!("/polls/big/{voter}"),
            if voter % 3 == 0 { "no" } else { "yes" },
        );
    }
    assert_eq!(shard.get("/polls/big").text(), r#"{"no":200,"yes":400}"#);
}

#[test]
fn polls_of_all_shards_are_joined() {
    let mut first = TestShard::<Votes>::new().ordinal(0, 2).start().unwrap();
    let mut second = TestShard::<Votes>::new().ordinal(1, 2).start().unwrap();
    first.put("/polls/b/ann", "x");
    second.put("/polls/a/ann", "x");
    let parts = vec![
        first.part("GET", "/polls", &[]),
        second.part("GET", "/polls", &[]),
    ];
    assert_eq!(
        first.gather("GET", "/polls", &[], parts).text(),
        r#"["a","b"]"#
    );
}
