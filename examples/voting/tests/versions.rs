//! Version 1 becomes version 2: on one shard, and shard by shard while polls move.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use ostrakon_guest::testing::{TestCluster, TestShard};
use serde_json::{Value, json};
use support::{cookie, location, result};

type One = voting_v1::Voting;
type Two = voting::Voting;

const SHARDS: u32 = 3;
const OPTIONS: [u8; 3] = [0, 1, 2];

/// The shard that is asked: by turns each.
fn shard_of(number: usize) -> u32 {
    [0, 1, 2][number % 3]
}

/// A cluster, and the last acknowledged choices of each poll and voter.
struct Course {
    cluster: TestCluster,
    polls: Vec<String>,
    cast: BTreeMap<(usize, usize), Vec<u8>>,
}

impl Course {
    fn new(polls: usize) -> Self {
        let cluster = TestCluster::start(SHARDS, TestShard::<One>::new).unwrap();
        let mut course = Self {
            cluster,
            polls: Vec::new(),
            cast: BTreeMap::new(),
        };
        for number in 0..polls {
            course.create(number);
        }
        course
    }

    fn create(&mut self, number: usize) {
        let form = format!("question=Poll+{number}&options=a%0Ab%0Ac");
        let shard = shard_of(number);
        let created = self.cluster.ask(shard).post("/polls", form);
        self.polls.push(location(&created));
    }

    /// Each voter votes in each poll; `salt` changes the choices.
    fn vote(&mut self, voters: std::ops::Range<usize>, salt: usize) {
        for (number, poll) in self.polls.iter().enumerate() {
            for voter in voters.clone() {
                let first = (number + voter * salt) % 3;
                let choices = [OPTIONS[first], OPTIONS[(first + 1) % 3]];
                let form = format!("choice={}&choice={}&choice=", choices[0], choices[1]);
                let headers = [("cookie", &*cookie(voter))];
                let asked = shard_of(voter + number);
                let mut client = self.cluster.ask(asked);
                let voted = client.send("POST", &format!("{poll}/votes"), &headers, form);
                assert_eq!(location(&voted), format!("{poll}/results"));
                let shown = client.send("GET", &format!("/api{poll}"), &headers, "");
                let counted = shown.json::<Value>()["yours"].clone();
                let counted: Vec<u8> = serde_json::from_value(counted).unwrap();
                assert!(counted == choices || counted == choices[..1], "{counted:?}");
                self.cast.insert((number, voter), counted);
            }
        }
    }

    /// Every listing has every poll once, and every result has every voter's last choices once.
    fn check(&mut self) {
        let expected: BTreeSet<_> = self.polls.iter().cloned().collect();
        for shard in 0..SHARDS {
            let listed: Value = self.cluster.ask(shard).get("/api/polls").json();
            let polls = listed["polls"].as_array().unwrap();
            let ids = polls
                .iter()
                .map(|poll| format!("/polls/{}", poll["id"].as_str().unwrap()));
            let ids: Vec<_> = ids.collect();
            assert_eq!(ids.len(), self.polls.len());
            assert_eq!(ids.iter().cloned().collect::<BTreeSet<_>>(), expected);
            for (poll, id) in polls.iter().zip(&ids) {
                let number = self.polls.iter().position(|poll| poll == id).unwrap();
                assert_eq!(poll["first"], json!(self.first_choices(number)), "{poll}");
            }
            for path in ["/", "/results"] {
                let page = self.cluster.ask(shard).get(path);
                assert_eq!(page.status, 200, "{}", page.text());
                let links = self
                    .polls
                    .iter()
                    .filter(|poll| page.text().contains(&***poll));
                assert_eq!(links.count(), self.polls.len());
            }
        }
        for (number, poll) in self.polls.clone().iter().enumerate() {
            let (votes, _, rounds) = result(&self.cluster.get(&format!("/api{poll}")));
            let first = self.first_choices(number);
            assert_eq!(
                (votes, &rounds[0]["counts"]),
                (first.iter().sum(), &json!(first))
            );
        }
        for ((number, voter), choices) in self.cast.clone() {
            let headers = [("cookie", &*cookie(voter))];
            let path = format!("/api{}", self.polls[number]);
            let shown: Value = self.cluster.ask(1).send("GET", &path, &headers, "").json();
            assert_eq!(shown["yours"], json!(choices));
        }
    }

    fn first_choices(&self, poll: usize) -> [u64; 3] {
        let mut counts = [0; 3];
        for ((_, _), choices) in self.cast.iter().filter(|((number, _), _)| *number == poll) {
            counts[usize::from(choices[0])] += 1;
        }
        counts
    }

    /// On which shards the polls are.
    fn places(&mut self) -> Vec<u32> {
        let keys = self
            .polls
            .iter()
            .map(|poll| poll["/polls/".len()..].to_owned());
        let keys: Vec<_> = keys.collect();
        let places = keys
            .iter()
            .map(|key| self.cluster.partition(key).expect("it is stored").0);
        places.collect()
    }
}

#[test]
fn no_vote_is_lost_or_counted_twice_while_shards_swap_and_polls_move() {
    let mut course = Course::new(20);
    course.vote(0..6, 1);
    course.check();
    let places: BTreeSet<_> = course.places().into_iter().collect();
    assert_eq!(places.len(), SHARDS as usize, "each shard has polls");
    for shard in 0..SHARDS {
        course.cluster.swap(shard, TestShard::<Two>::new).unwrap();
        course.check();
        // Some change their votes, others vote for the first time.
        let shard = shard as usize;
        course.vote(shard..shard + 5, shard + 2);
        course.check();
        course.create(20 + shard);
        course.check();
    }
    let ranked = course.cast.values().filter(|choices| choices.len() == 2);
    assert!(ranked.count() > 0, "version 2 keeps further choices");
}

#[test]
fn polls_that_move_from_version_1_to_version_2_are_migrated() {
    let mut course = Course::new(30);
    course.vote(0..4, 1);
    // Shard 2, with version 1, hands all its polls to the two shards with version 2.
    for shard in 0..2 {
        course.cluster.swap(shard, TestShard::<Two>::new).unwrap();
    }
    let before = course.places();
    assert!(before.contains(&2));
    course.cluster.scale(2);
    assert!(!course.places().contains(&2));
    for (number, poll) in course.polls.clone().iter().enumerate() {
        let (votes, _, rounds) = result(&course.cluster.get(&format!("/api{poll}")));
        assert_eq!(
            (votes, &rounds[0]["counts"]),
            (4, &json!(course.first_choices(number)))
        );
    }
    let listed: Value = course.cluster.ask(1).get("/api/polls").json();
    let polls = listed["polls"].as_array().unwrap();
    assert_eq!(polls.len(), 30);
    assert!(polls.iter().all(|poll| poll["ranked"] == true));
}

#[test]
fn parts_say_which_polls_are_ranked() {
    let mut one = TestShard::<One>::new().start().unwrap();
    one.post("/polls", "question=q&options=a%0Ab");
    let part = one.part("GET", "/", &[]).response.body;
    let part: Value = serde_json::from_slice(&part).unwrap();
    assert_eq!(
        part["polls"][0].get("ranked"),
        None,
        "version 1 has no such field"
    );
    let mut two = one.swap::<Two>().start().unwrap();
    let part = two.part("GET", "/", &[]).response.body;
    let part: Value = serde_json::from_slice(&part).unwrap();
    assert_eq!(part["polls"][0]["ranked"], true);
}

#[test]
fn a_migration_turns_each_vote_into_a_ranking_with_one_choice() {
    let mut one = TestShard::<One>::new().start().unwrap();
    let polls = [2_500, 0, 3].map(|voters| {
        let poll = location(&one.post("/polls", "question=q&options=a%0Ab%0Ac"));
        for voter in 0..voters {
            let headers = [("cookie", &*cookie(voter))];
            let form = format!("choice={}", voter % 3);
            let voted = one.send("POST", &format!("{poll}/votes"), &headers, form);
            assert_eq!(voted.status, 303);
        }
        (poll, voters)
    });
    let mut two = one.swap::<Two>().start().unwrap();
    for (poll, voters) in polls {
        let counts =
            [0, 1, 2].map(|option| (0..voters).filter(|voter| voter % 3 == option).count());
        let (votes, _, rounds) = result(&two.get(&format!("/api{poll}")));
        assert_eq!(
            (votes, &rounds[0]["counts"]),
            (voters as u64, &json!(counts))
        );
        let stored = two
            .partition(&poll["/polls/".len()..])
            .expect("it is stored");
        let rankings = stored.values().filter(|value| value.len() == "[0]".len());
        assert_eq!(rankings.count(), voters);
    }
    let refused = two.swap::<One>().start().unwrap_err();
    assert!(refused.contains("schema 2"), "{refused}");
}

#[test]
fn a_page_has_the_newest_polls_of_all_shards() {
    let mut cluster = TestCluster::start(SHARDS, TestShard::<Two>::new).unwrap();
    for number in 0..120 {
        cluster
            .ask(number % SHARDS)
            .post("/polls", format!("question=Poll+{number}&options=a%0Ab"));
        cluster.advance(std::time::Duration::from_millis(1));
    }
    let (mut path, mut found, mut pages) = ("/api/polls".to_owned(), Vec::new(), 0);
    loop {
        let page: Value = cluster.ask(pages % SHARDS).get(&path).json();
        let questions = page["polls"].as_array().unwrap().iter();
        found.extend(questions.map(|poll| poll["question"].as_str().unwrap().to_owned()));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut path),
            None => break,
        }
    }
    let expected: Vec<_> = (0..120)
        .rev()
        .map(|number| format!("Poll {number}"))
        .collect();
    assert_eq!((found, pages), (expected, 3));
    let home = cluster.get("/");
    assert!(home.text().contains("Older polls"));
}
