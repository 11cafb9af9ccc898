//! The `ostrakon` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ostrakon::cli::run(std::env::args_os()).into()
}
