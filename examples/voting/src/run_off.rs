//! Instant run-off voting.

use std::cmp::Reverse;

use voting_polls::{Outcome, Round};

/// Counts each ranking for its first option that is not out, and puts the option with the fewest votes out, round by
/// round, until one has more than half of the counted votes, or all that remain have as many.
///
/// Of several options with the fewest votes, the one with fewer votes in earlier rounds leaves, the latest round first;
/// then the one listed later.
pub fn run_off(options: usize, rankings: &[Vec<u8>]) -> Outcome {
    // A pile of votes for each option; `None` once it is out.
    let mut piles: Vec<Option<Vec<&[u8]>>> = vec![Some(Vec::new()); options];
    let mut exhausted = deal(&mut piles, rankings.iter().map(Vec::as_slice));
    let mut rounds: Vec<Round> = Vec::new();
    loop {
        let votes = |pile: &Vec<_>| u32::try_from(pile.len()).unwrap_or(u32::MAX);
        let counts: Vec<_> = piles.iter().map(|pile| pile.as_ref().map(votes)).collect();
        let counted: u64 = counts.iter().flatten().map(|votes| u64::from(*votes)).sum();
        let most = counts.iter().flatten().max().copied().unwrap_or(0);
        let fewest = counts.iter().flatten().min().copied().unwrap_or(0);
        let winners = (0..).zip(&counts);
        let winners = winners.filter(|(_, votes)| **votes == Some(most) && most > 0);
        let winners = winners.map(|(option, _)| option).collect();
        rounds.push(Round { counts, exhausted });
        let last = (0..options).filter(|option| piles[*option].is_some());
        let last = last.min_by_key(|option| {
            let votes = rounds.iter().rev().map(|round| round.counts[*option]);
            (votes.collect::<Vec<_>>(), Reverse(*option))
        });
        match last {
            // Only the votes of the option that leaves move.
            Some(last) if u64::from(most) * 2 <= counted && most > fewest => {
                let pile = piles[last].take().unwrap_or_default();
                exhausted += deal(&mut piles, pile.into_iter());
            }
            _ => return Outcome { winners, rounds },
        }
    }
}

/// Puts each vote on the pile of its first option that is not out, and returns how many have none.
fn deal<'a>(piles: &mut [Option<Vec<&'a [u8]>>], votes: impl Iterator<Item = &'a [u8]>) -> u32 {
    let mut exhausted = 0;
    for vote in votes {
        let is_in = |option: &u8| piles.get(usize::from(*option)).is_some_and(Option::is_some);
        let first = vote.iter().position(is_in);
        match first.and_then(|at| piles[usize::from(vote[at])].as_mut().map(|pile| (pile, at))) {
            // What is before it is out, and stays so.
            Some((pile, at)) => pile.push(&vote[at..]),
            None => exhausted += 1,
        }
    }
    exhausted
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
