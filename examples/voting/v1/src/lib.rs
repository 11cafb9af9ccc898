//! The voting service, version 1: a vote is for one option.

use std::fmt::Write as _;

use ostrakon_guest::{Migration, Result, html::escape};
use serde::{Deserialize, Serialize};
use voting_polls::{Ballot, Outcome, Poll, Votes};

pub type Voting = voting_polls::Voting<Choice>;

ostrakon_guest::export!(Voting);

/// A vote: the option's number.
#[derive(Serialize, Deserialize)]
pub struct Choice(u8);

impl Ballot for Choice {
    const VERSION: &'static str = "1.0.0";
    const SCHEMA: u32 = 1;
    const RANKED: bool = false;

    /// Of several choices only the first one counts.
    fn new(_: &Poll, choices: &[u8]) -> Result<Self, String> {
        let choice = choices.first().ok_or("Choose an option.")?;
        Ok(Self(*choice))
    }

    fn choices(&self) -> Vec<u8> {
        vec![self.0]
    }

    fn fields(poll: &Poll, chosen: &[u8]) -> String {
        let mut fields = String::from("<fieldset><legend>Choose one</legend>");
        for (number, option) in (0..).zip(&poll.options) {
            let checked = if chosen.first() == Some(&number) {
                " checked"
            } else {
                ""
            };
            let _ = write!(
                fields,
                "<label class=\"choice\"><input type=\"radio\" name=\"choice\" value=\"{number}\" required{checked}>\
                 <span>{}</span></label>",
                escape(option)
            );
        }
        fields + "</fieldset>"
    }

    fn outcome(poll: &Poll, votes: Votes<Self>) -> Result<Outcome> {
        Ok(Outcome::by_majority(&votes.first_choices(poll)?))
    }

    fn migrate(from: u32, _: &Migration) -> Result<(), String> {
        Err(format!("version 1 cannot migrate data of schema {from}"))
    }
}
