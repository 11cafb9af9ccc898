//! Builds real crates with this machine's toolchain.

use std::fs;
use std::path::Path;

use ostrakon_toolchain::build::Error;
use ostrakon_toolchain::{Build, Interface, Search, Target, Toolchain, sha256};
use tempfile::TempDir;
use wit_component::StringEncoding;
use wit_parser::Resolve;

/// A guest written without the SDK: the exports as the component model lowers
/// them, and the world in a custom section.
const BARE_GUEST: &str = r#"
#[used]
#[unsafe(link_section = "component-type")]
static WORLD: [u8; include_bytes!("world.bin").len()] = *include_bytes!("world.bin");

macro_rules! export {
    ($($name:ident($($argument:ident),*) -> $result:ty;)*) => {
        $(#[unsafe(no_mangle)] extern "C" fn $name($(_: $argument),*) -> $result { loop {} })*
    };
}

export! {
    cabi_realloc(i32, i32, i32, i32) -> i32;
    describe() -> i32;
    check() -> i32;
    owner(i32, i32, i32) -> i32;
    route(i32, i32, i32, i32) -> i32;
    handle(i32, i32, i32, i32, i32, i32) -> i32;
    gather(i32, i32, i32, i32, i32, i32) -> i32;
    migrate(i32) -> i32;
}
"#;

const CDYLIB: &str = "[lib]\ncrate-type = [\"cdylib\"]\n";

fn toolchain(directory: &Path) -> Toolchain {
    let search = Search::new(Target::Unknown, directory).unwrap();
    search
        .find()
        .expect("a toolchain for guests is installed or can be")
}

/// A crate in a directory of its own.
fn crate_with(manifest: &str, source: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let head = "[package]\nname = \"bare\"\nedition = \"2024\"\n\n[workspace]\n\n";
    fs::write(
        directory.path().join("Cargo.toml"),
        format!("{head}{manifest}"),
    )
    .unwrap();
    fs::create_dir(directory.path().join("src")).unwrap();
    fs::write(directory.path().join("src/lib.rs"), source).unwrap();
    directory
}

fn build(directory: &TempDir) -> Result<ostrakon_toolchain::Built, Error> {
    Build::new(directory.path()).run(&toolchain(directory.path()))
}

fn bare_guest() -> TempDir {
    let mut resolve = Resolve::default();
    let contract = include_str!("../../../wit/ostrakon.wit");
    let package = resolve.push_str("ostrakon.wit", contract).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let section =
        wit_component::metadata::encode(&resolve, world, StringEncoding::UTF8, None).unwrap();
    let directory = crate_with(CDYLIB, BARE_GUEST);
    fs::write(directory.path().join("src/world.bin"), section).unwrap();
    directory
}

#[test]
fn a_file_of_another_toolchain_becomes_a_component() {
    let directory = bare_guest();
    let built = build(&directory).unwrap();
    let module = directory
        .path()
        .join("target/wasm32-unknown-unknown/release/bare.wasm");
    for file in [&module, &built.path] {
        let output = directory.path().join("out.wasm");
        let made = Build::of_file(file, Some(output.clone())).unwrap();
        assert_eq!((made.path, made.sha256), (output, built.sha256.clone()));
    }
    let beside = Build::of_file(&built.path, None).unwrap();
    assert!(beside.path.ends_with("bare.component.wasm"));
    let other = directory.path().join("other.wasm");
    fs::write(&other, b"\0asm\x01\0\0\0").unwrap();
    let error = Build::of_file(&other, None).unwrap_err();
    assert!(matches!(error, Error::Component { .. }), "{error}");
    assert!(matches!(
        Build::of_file(&directory.path().join("none"), None),
        Err(Error::Read { .. })
    ));
}

#[test]
fn a_guest_that_would_trap_when_it_asks_for_the_time_is_not_built() {
    let asks = BARE_GUEST.replace(
        "{ loop {} }",
        "{ assert!(std::time::SystemTime::now() > std::time::UNIX_EPOCH); loop {} }",
    );
    let directory = bare_guest();
    fs::write(directory.path().join("src/lib.rs"), asks).unwrap();
    let error = build(&directory).unwrap_err();
    assert!(matches!(error, Error::NoClock(_)), "{error}");
    // A time that the host gave is no reason.
    let has_one = BARE_GUEST.replace(
        "{ loop {} }",
        "{ assert!(std::time::UNIX_EPOCH.checked_add(std::time::Duration::MAX).is_none()); loop {} }",
    );
    fs::write(directory.path().join("src/lib.rs"), has_one).unwrap();
    build(&directory).unwrap();
}

#[test]
fn a_guest_crate_becomes_a_component_with_its_size_and_digest() {
    let directory = bare_guest();
    let built = build(&directory).unwrap();
    let bytes = fs::read(&built.path).unwrap();
    assert_eq!(built.path.file_name().unwrap(), "bare.wasm");
    assert_eq!(built.bytes, bytes.len());
    assert_eq!(built.sha256, sha256(&bytes));
    assert!(
        Interface::read(&bytes)
            .unwrap()
            .missing_exports()
            .is_empty()
    );
}

#[test]
fn an_output_and_a_profile_can_be_named() {
    let directory = bare_guest();
    let output = directory.path().join("deep/below/guest.wasm");
    let toolchain = toolchain(directory.path());
    let built = Build::new(directory.path())
        .profile(Some("dev".to_owned()))
        .output(Some(output.clone()))
        .run(&toolchain)
        .unwrap();
    assert_eq!(built.path, output);
    let around = fs::read_dir(output.parent().unwrap()).unwrap().count();
    assert_eq!(around, 1, "something other than the component is left");
    let target = toolchain.target_directory(&directory.path().join("target"));
    assert!(target.join("wasm32-unknown-unknown/debug").is_dir());
}

#[test]
fn a_crate_of_another_kind_is_refused_with_what_it_lacks() {
    let directory = crate_with(CDYLIB, "#[unsafe(no_mangle)] extern \"C\" fn f() {}");
    let error = build(&directory).unwrap_err();
    let Error::Component { source, .. } = &error else {
        panic!("{error}");
    };
    assert!(source.to_string().contains("does not export describe"));
}

#[test]
fn a_crate_that_makes_no_wasm_is_told_how_to() {
    let error = build(&crate_with("", "")).unwrap_err();
    assert!(
        matches!(&error, Error::NoWasm(name) if name == "bare"),
        "{error}"
    );
}

#[test]
fn a_crate_that_does_not_compile_is_said_so() {
    let error = build(&crate_with(CDYLIB, "fn f() -> u8 {}")).unwrap_err();
    assert!(
        matches!(&error, Error::Compile(name) if name == "bare"),
        "{error}"
    );
}

#[test]
fn a_directory_without_a_package_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = build(&directory).unwrap_err();
    assert!(error.to_string().contains("holds no cargo package"));
}
