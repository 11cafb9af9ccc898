//! Who wins a poll.

use serde::Serialize;

/// The counts of a poll, and who is ahead.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The options that win, or are ahead while the poll is open: none before the first vote, several in a draw.
    pub winners: Vec<u8>,
    /// One round, or those of a run-off.
    pub rounds: Vec<Round>,
}

/// How the votes were counted once.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Round {
    /// The votes of each option, in the poll's order; `None` for options that are out.
    pub counts: Vec<Option<u32>>,
    /// The votes that rank no remaining option.
    pub exhausted: u32,
}

impl Outcome {
    /// The outcome by simple majority: the option with the most votes wins.
    pub fn by_majority(counts: &[u32]) -> Self {
        let most = counts.iter().copied().max().unwrap_or(0);
        let winners = (0..)
            .zip(counts)
            .filter(|(_, count)| **count == most && most > 0);
        Self {
            winners: winners.map(|(option, _)| option).collect(),
            rounds: vec![Round {
                counts: counts.iter().copied().map(Some).collect(),
                exhausted: 0,
            }],
        }
    }

    /// The number of votes.
    pub fn votes(&self) -> u32 {
        let first = self.rounds.first();
        first.map_or(0, |round| round.counts.iter().flatten().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_votes_win() {
        for (counts, winners) in [
            (&[0, 0][..], &[][..]),
            (&[1, 0], &[0]),
            (&[2, 3, 3], &[1, 2]),
        ] {
            let outcome = Outcome::by_majority(counts);
            assert_eq!(outcome.winners, winners);
            assert_eq!(outcome.votes(), counts.iter().sum::<u32>());
        }
    }
}
