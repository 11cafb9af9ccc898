//! A vote that ranks options.

use std::fmt::Write as _;

use ostrakon_guest::{Migration, Result, html::escape};
use serde::{Deserialize, Serialize};
use voting_polls::{Ballot, Outcome, Poll, Votes};

use crate::{migration, run_off};

/// A vote: the options' numbers, the most preferred one first, each at most once.
#[derive(Serialize, Deserialize)]
pub struct Ranking(pub(crate) Vec<u8>);

impl Ballot for Ranking {
    const VERSION: &'static str = "2.0.0";
    const SCHEMA: u32 = 2;
    const RANKED: bool = true;

    fn new(poll: &Poll, choices: &[u8]) -> Result<Self, String> {
        if choices.is_empty() {
            return Err("Choose an option as your 1st choice.".to_owned());
        }
        let mut before = choices.iter().enumerate();
        let twice = before.find(|(at, choice)| choices[..*at].contains(choice));
        match twice {
            None => Ok(Self(choices.to_vec())),
            Some((_, choice)) => {
                let name = &poll.options[usize::from(*choice)];
                Err(format!(
                    "You chose “{name}” twice: rank each option at most once."
                ))
            }
        }
    }

    fn choices(&self) -> Vec<u8> {
        self.0.clone()
    }

    fn fields(poll: &Poll, chosen: &[u8]) -> String {
        let mut fields = String::from(
            "<fieldset><legend>Rank the options</legend><p class=\"hint\">Rank as many as you like. If your 1st choice \
             cannot win, your vote counts for the 2nd, and so on.</p>",
        );
        for rank in 0..poll.options.len() {
            let _ = write!(
                fields,
                "<label for=\"rank-{0}\">{1} choice</label><select id=\"rank-{0}\" name=\"choice\"{2}>\
                 <option value=\"\">–</option>",
                rank + 1,
                ordinal(rank + 1),
                if rank == 0 { " required" } else { "" },
            );
            for (number, option) in (0..).zip(&poll.options) {
                let selected = if chosen.get(rank) == Some(&number) {
                    " selected"
                } else {
                    ""
                };
                let _ = write!(
                    fields,
                    "<option value=\"{number}\"{selected}>{}</option>",
                    escape(option)
                );
            }
            fields.push_str("</select>");
        }
        fields + "</fieldset>"
    }

    fn outcome(poll: &Poll, votes: Votes<Self>) -> Result<Outcome> {
        let rankings = votes
            .ballots()
            .map(|ballot| ballot.map(|Self(ranking)| ranking));
        Ok(run_off(
            poll.options.len(),
            &rankings.collect::<Result<Vec<_>>>()?,
        ))
    }

    fn migrate(from: u32, shard: &Migration) -> Result<(), String> {
        migration::migrate(from, *shard)
    }
}

/// 1st, 2nd, 3rd, 4th, ...
fn ordinal(number: usize) -> String {
    let suffix = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn ordinals_are_english() {
        for (number, text) in [
            (1, "1st"),
            (2, "2nd"),
            (3, "3rd"),
            (4, "4th"),
            (11, "11th"),
            (12, "12th"),
            (20, "20th"),
        ] {
            assert_eq!(super::ordinal(number), text);
        }
    }
}
