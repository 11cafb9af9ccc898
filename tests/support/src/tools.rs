//! Tools of other projects, as `cargo xtask tools` installs them.

use std::env;
use std::path::{self, Path, PathBuf};
use std::process::{Command, Output};

/// The command of such a tool: `kubectl`, `promtool`, ...
///
/// # Panics
/// When it is not installed.
pub fn tool(name: &str) -> Command {
    Command::new(provided(name))
}

/// The path of a tool, or of a file that came with one.
///
/// # Panics
/// When it is not installed.
pub fn provided(name: &str) -> PathBuf {
    let tools = env::var_os("OSTRAKON_TEST_TOOLS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools"),
        PathBuf::from,
    );
    let places = [tools.join(name), tools.join("venv/bin").join(name)];
    let found = places.iter().find(|path| path.exists());
    let found = found.unwrap_or_else(|| panic!("there is no {name}: run `cargo xtask tools`"));
    // The tool may be run in another directory.
    path::absolute(found).expect("the working directory exists")
}

/// Runs a command to its end, and returns its standard output.
///
/// # Panics
/// When it cannot be run or fails; the message has its output.
pub fn output(command: &mut Command) -> String {
    let name = command.get_program().to_owned();
    let run = command.output();
    let Output {
        status,
        stdout,
        stderr,
    } = run.unwrap_or_else(|error| {
        panic!(
            "{}: {error}: run `cargo xtask tools`",
            name.to_string_lossy()
        )
    });
    let said = String::from_utf8_lossy(&stdout).into_owned();
    assert!(
        status.success(),
        "{} {status}:\n{said}{}",
        name.to_string_lossy(),
        String::from_utf8_lossy(&stderr)
    );
    said
}
