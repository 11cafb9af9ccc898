//! The search on fake machines.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::*;

/// A machine with some programs and files; an installation adds more.
#[derive(Default)]
struct Fake {
    has_target: RefCell<bool>,
    rustup_reaches_its_server: bool,
    root: bool,
    /// The packages that apt can install.
    apt: &'static [&'static str],
    files: RefCell<BTreeSet<PathBuf>>,
    ran: RefCell<Vec<String>>,
}

const STD_SOURCE: &str = "/usr/lib/rust-src-root/lib/rustlib/src/rust/library/std/Cargo.toml";
const RUSTUP_LLD: &str = "/rustup/lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld";

impl Fake {
    fn with_files(self, files: &[&str]) -> Self {
        self.add(files);
        self
    }

    fn add(&self, files: &[&str]) {
        self.files
            .borrow_mut()
            .extend(files.iter().map(PathBuf::from));
    }

    fn fail<T>(program: &str) -> Result<T, machine::Error> {
        Err(machine::Error::Overrun {
            program: program.to_owned(),
            limit: Duration::from_secs(1),
        })
    }

    /// The programs that were run, without queries and the samples' arguments.
    fn steps(&self) -> Vec<String> {
        self.ran.borrow().clone()
    }
}

impl Machine for Fake {
    fn run(&self, command: Command, _limit: Duration) -> Result<String, machine::Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        let arguments: Vec<_> = command
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        let samples = arguments.iter().any(|argument| argument == "--crate-type");
        let line = if samples {
            format!("{program} sample")
        } else {
            format!("{program} {}", arguments.join(" "))
        };
        self.ran.borrow_mut().push(line.clone());
        match line.as_str() {
            "rustc sample" if *self.has_target.borrow() => Ok(String::new()),
            "rustup target add wasm32-unknown-unknown" if self.rustup_reaches_its_server => {
                *self.has_target.borrow_mut() = true;
                Ok(String::new())
            }
            "id -u" => Ok(if self.root { "0\n" } else { "1000\n" }.to_owned()),
            "apt-get -q update" => Ok(String::new()),
            "apt-get -q install -y --no-install-recommends rustc-web cargo-web rust-web-src"
                if self.apt == DEBIAN_PACKAGES =>
            {
                self.add(&[DEBIAN_CARGO, DEBIAN_RUSTC, STD_SOURCE]);
                Ok(String::new())
            }
            "apt-get -q install -y --no-install-recommends lld" => {
                if self.apt.contains(&"lld") {
                    self.add(&["/usr/bin/wasm-ld"]);
                }
                Ok(String::new())
            }
            "/usr/bin/rustc --print sysroot" if self.is_file(Path::new(DEBIAN_RUSTC)) => {
                Ok("/usr/lib/rust-src-root\n".to_owned())
            }
            "rustc --print target-libdir" => {
                Ok("/rustup/lib/rustlib/x86_64-unknown-linux-gnu/lib\n".to_owned())
            }
            "/usr/bin/rustc sample" if self.is_file(Path::new(DEBIAN_RUSTC)) => Ok(String::new()),
            _ => Self::fail(&program),
        }
    }

    fn is_file(&self, path: &Path) -> bool {
        self.files.borrow().contains(path)
    }

    fn progress(&self, _line: &str) {}
}

fn search(only: Option<Way>) -> Search {
    Search {
        target: Target::Unknown,
        directory: PathBuf::from("."),
        only,
    }
}

fn check(fake: &Fake, only: Option<Way>, way: Way, steps: &[&str]) -> Toolchain {
    let toolchain = search(only)
        .find_on(fake)
        .unwrap_or_else(|error| panic!("{error}; ran {:#?}", fake.steps()));
    assert_eq!(toolchain.way, way);
    assert_eq!(fake.steps(), steps);
    toolchain
}

#[test]
fn an_installed_target_is_taken_and_nothing_is_installed() {
    let fake = Fake {
        has_target: true.into(),
        root: true,
        apt: &DEBIAN_PACKAGES,
        ..Fake::default()
    };
    check(&fake, None, Way::Installed, &["rustc sample"]);
}

#[test]
fn a_missing_target_is_added_by_rustup_and_seen_to_build() {
    let fake = Fake {
        rustup_reaches_its_server: true,
        root: true,
        apt: &DEBIAN_PACKAGES,
        ..Fake::default()
    };
    let steps = [
        "rustc sample",
        "rustup target add wasm32-unknown-unknown",
        "rustc sample",
    ];
    check(&fake, None, Way::Rustup, &steps);
}

#[test]
fn without_rustups_server_root_installs_debians_packages() {
    let fake = Fake {
        root: true,
        apt: &DEBIAN_PACKAGES,
        ..Fake::default()
    }
    .with_files(&[RUSTUP_LLD]);
    let steps = [
        "rustc sample",
        "rustup target add wasm32-unknown-unknown",
        "id -u",
        "apt-get -q update",
        "apt-get -q install -y --no-install-recommends rustc-web cargo-web rust-web-src",
        "rustc --print target-libdir",
        "/usr/bin/rustc sample",
    ];
    let toolchain = check(&fake, None, Way::Debian, &steps);
    assert_eq!(toolchain.linker.as_deref(), Some(Path::new(RUSTUP_LLD)));
}

#[test]
fn debians_packages_that_are_there_need_no_root() {
    let fake =
        Fake::default().with_files(&[DEBIAN_CARGO, DEBIAN_RUSTC, STD_SOURCE, "/usr/bin/wasm-ld"]);
    let steps = [
        "/usr/bin/rustc --print sysroot",
        "rustc --print target-libdir",
        "/usr/bin/rustc sample",
    ];
    let toolchain = check(&fake, Some(Way::Debian), Way::Debian, &steps);
    let linker = toolchain.linker.as_deref();
    assert_eq!(linker, Some(Path::new("/usr/bin/wasm-ld")));
}

#[test]
fn a_missing_linker_is_installed() {
    let fake = Fake {
        root: true,
        apt: &["lld"],
        ..Fake::default()
    }
    .with_files(&[DEBIAN_CARGO, DEBIAN_RUSTC, STD_SOURCE]);
    let toolchain = search(Some(Way::Debian)).find_on(&fake).unwrap();
    let linker = toolchain.linker.as_deref();
    assert_eq!(linker, Some(Path::new("/usr/bin/wasm-ld")));
}

#[test]
fn a_linker_that_stays_missing_is_said() {
    let fake = Fake {
        root: true,
        ..Fake::default()
    }
    .with_files(&[DEBIAN_CARGO, DEBIAN_RUSTC, STD_SOURCE]);
    let error = search(Some(Way::Debian)).find_on(&fake).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("neither rust-lld nor wasm-ld is installed")
    );
}

#[test]
fn where_nothing_helps_one_line_says_what_to_install_and_what_was_tried() {
    let line = search(None)
        .find_on(&Fake::default())
        .unwrap_err()
        .to_string();
    assert_eq!(line.lines().count(), 1);
    for part in [
        "run `rustup target add wasm32-unknown-unknown`",
        "installed: rustc was not done",
        "rustup: rustup was not done",
        "debian: only root can run `apt-get install rustc-web cargo-web rust-web-src`",
    ] {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
}

#[test]
fn a_forced_way_is_the_only_one_tried() {
    let fake = Fake {
        has_target: true.into(),
        ..Fake::default()
    };
    search(Some(Way::Rustup)).find_on(&fake).unwrap_err();
    assert_eq!(fake.steps(), ["rustup target add wasm32-unknown-unknown"]);
}

#[test]
fn debians_compiler_builds_its_own_library_apart_from_other_artifacts() {
    let toolchain = Toolchain {
        target: Target::Unknown,
        way: Way::Debian,
        linker: Some("/usr/bin/wasm-ld".into()),
    };
    let usual = Path::new("target");
    assert_eq!(
        toolchain.target_directory(usual),
        Path::new("target/debian")
    );
    let arguments = toolchain.build_arguments();
    assert!(arguments.contains(&"-Zbuild-std=std,panic_abort".into()));
    let cargo = toolchain.cargo(Path::new("."));
    assert_eq!(cargo.get_program(), DEBIAN_CARGO);
    let set = |name: &str| {
        cargo
            .get_envs()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    };
    assert_eq!(set("RUSTC_BOOTSTRAP"), Some(Some("1".as_ref())));
    assert_eq!(set("RUSTUP_TOOLCHAIN"), Some(None));
}

#[test]
fn a_way_that_does_not_exist_is_refused_by_name() {
    let error = "nix".parse::<Way>().unwrap_err();
    assert!(error.to_string().contains("is `nix`: set it to installed"));
}
