//! Replacing the live generation with another without failing a request.

mod alone;
mod back;
mod candidate;
mod controller;
mod default_guest;
pub mod history;
mod kept;
mod machine;
mod performer;
mod status;
mod steps;

pub use alone::{Alone, Permitted};
pub use back::{Back, Busy};
pub use candidate::{Candidate, Rejection, with_component};
pub use controller::Controller;
pub use default_guest::{DefaultGuest, DefaultGuestError};
pub use kept::Kept;
pub use machine::{Action, Effect, Event, Live, Refusal, State, Step};
pub use performer::{Failure, Performer};
pub use status::{InProgress, LiveGeneration, Refused, Status};
pub use steps::tried;
