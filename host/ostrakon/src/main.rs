//! The `ostrakon` command.

mod heap;
mod readiness;
mod drain;
mod admin;
mod app;
mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(std::env::args_os()).into()
}
