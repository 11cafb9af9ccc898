//! Instant run-off voting.

use std::cmp::Reverse;

use voting_polls::{Outcome, Round};

/// Counts each ranking for its first option that is not out, and puts the option with the fewest votes out, round by
/// round, until one has more than half of the counted votes, or all that remain have as many.
///
/// Of several options with the fewest votes, the one with fewer votes in earlier rounds leaves, the latest round first;
/// then the one listed later.
pub fn run_off(options: usize, rankings: &[Vec<u8>]) -> Outcome {
    let mut remaining = vec![true; options];
    let mut rounds: Vec<Round> = Vec::new();
    loop {
        let round = count(&remaining, rankings);
        let counts = &round.counts;
        let counted: u32 = counts.iter().flatten().sum();
        let most = counts.iter().flatten().max().copied().unwrap_or(0);
        let fewest = counts.iter().flatten().min().copied().unwrap_or(0);
        if u64::from(most) * 2 > u64::from(counted) || most == fewest {
            let winners = (0..).zip(counts);
            let winners = winners.filter(|(_, count)| *count == &Some(most) && most > 0);
            let winners = winners.map(|(option, _)| option).collect();
            rounds.push(round);
            return Outcome { winners, rounds };
        }
        rounds.push(round);
        let last = (0..options).filter(|option| remaining[*option]);
        let last = last.min_by_key(|option| {
            let votes = rounds.iter().rev().map(|round| round.counts[*option]);
            (votes.collect::<Vec<_>>(), Reverse(*option))
        });
        if let Some(last) = last {
            remaining[last] = false;
        }
    }
}

fn count(remaining: &[bool], rankings: &[Vec<u8>]) -> Round {
    let mut counts: Vec<_> = remaining.iter().map(|is_in| is_in.then_some(0)).collect();
    let mut exhausted = 0;
    for ranking in rankings {
        let mut preferred = ranking.iter().map(|option| usize::from(*option));
        match preferred.find_map(|option| counts.get(option).copied().flatten().map(|_| option)) {
            Some(option) => counts[option] = counts[option].map(|count| count + 1),
            None => exhausted += 1,
        }
    }
    Round { counts, exhausted }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the counts of each round, and the winners, of so many votes with each ranking.
    fn check(options: usize, votes: &[(usize, &[u8])], rounds: &[&str], winners: &[u8]) {
        let rankings: Vec<_> = votes
            .iter()
            .flat_map(|(times, ranking)| vec![ranking.to_vec(); *times])
            .collect();
        let outcome = run_off(options, &rankings);
        let shown = outcome.rounds.iter().map(|round| {
            let counts = round.counts.iter().map(|count| match count {
                Some(count) => count.to_string(),
                None => "-".to_owned(),
            });
            let counts: Vec<_> = counts.collect();
            format!("{} +{}", counts.join(" "), round.exhausted)
        });
        assert_eq!(shown.collect::<Vec<_>>(), rounds);
        assert_eq!(outcome.winners, winners);
        // Each vote is counted once in each round.
        for round in &outcome.rounds {
            let counted: u32 = round.counts.iter().flatten().sum();
            assert_eq!((counted + round.exhausted) as usize, rankings.len());
        }
    }

    #[test]
    fn without_votes_nobody_wins() {
        check(3, &[], &["0 0 0 +0"], &[]);
    }

    #[test]
    fn more_than_half_wins_at_once() {
        check(3, &[(3, &[0]), (2, &[1, 2])], &["3 2 0 +0"], &[0]);
    }

    #[test]
    fn votes_move_to_the_next_choice() {
        // Tennessee's capital, the textbook's example: Memphis, Nashville, Chattanooga, Knoxville.
        let votes: [(usize, &[u8]); 4] = [
            (42, &[0, 1, 2, 3]),
            (26, &[1, 2, 3, 0]),
            (15, &[2, 3, 1, 0]),
            (17, &[3, 2, 1, 0]),
        ];
        let rounds = ["42 26 15 17 +0", "42 26 - 32 +0", "42 - - 58 +0"];
        check(4, &votes, &rounds, &[3]);
    }

    #[test]
    fn a_vote_whose_options_are_all_out_is_exhausted() {
        let votes: [(usize, &[u8]); 3] = [(4, &[0]), (3, &[1]), (2, &[2])];
        check(3, &votes, &["4 3 2 +0", "4 3 - +2"], &[0]);
    }

    #[test]
    fn all_that_remain_can_draw() {
        check(2, &[(2, &[0]), (2, &[1])], &["2 2 +0"], &[0, 1]);
        check(
            3,
            &[(2, &[0]), (2, &[1]), (1, &[2])],
            &["2 2 1 +0", "2 2 - +1"],
            &[0, 1],
        );
    }

    #[test]
    fn of_the_last_the_one_with_fewer_votes_before_leaves_then_the_one_listed_later() {
        let equal: [(usize, &[u8]); 3] = [(3, &[0]), (2, &[1, 2]), (2, &[2, 1])];
        check(3, &equal, &["3 2 2 +0", "3 4 - +0"], &[1]);
        // Options 1 and 2 have three each in the second round, but 2 had more in the first.
        let before: [(usize, &[u8]); 4] = [(4, &[0]), (2, &[1, 2]), (3, &[2, 1]), (1, &[3, 1])];
        check(
            4,
            &before,
            &["4 2 3 1 +0", "4 3 3 - +0", "4 - 5 - +1"],
            &[2],
        );
    }
}
