//! Components: makes them from core modules, and reads their imports and exports.

use wit_component::{ComponentEncoder, DecodedWasm};
use wit_parser::{Resolve, WorldItem, WorldKey};

/// The exports of each guest: world `service` of `wit/ostrakon.wit`.
pub const EXPORTS: [&str; 7] = [
    "describe", "check", "owner", "route", "handle", "gather", "migrate",
];

const MAGIC: &[u8] = b"\0asm";
const CORE_MODULE: [u8; 4] = [1, 0, 0, 0];
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];

/// The imports and exports of a component, named as in WIT, in the component's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Such as `ostrakon:shard/store@0.1.1`.
    pub imports: Vec<String>,
    /// Such as `handle`.
    pub exports: Vec<String>,
}

impl Interface {
    /// Reads the imports and exports of a component.
    ///
    /// # Errors
    /// When the bytes are no component; the error says what they are instead.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        match kind(bytes)? {
            Kind::Component => {}
            Kind::CoreModule => return Err(Error::CoreModule),
        }
        let decoded = wit_component::decode(bytes).map_err(|error| Error::Decode {
            reason: format!("{error:#}"),
        })?;
        let DecodedWasm::Component(resolve, world) = decoded else {
            return Err(Error::WitPackage);
        };
        let world = &resolve.worlds[world];
        Ok(Self {
            imports: names(&resolve, &world.imports),
            exports: names(&resolve, &world.exports),
        })
    }

    /// The exports of world `service` that are missing.
    pub fn missing_exports(&self) -> Vec<&'static str> {
        EXPORTS
            .into_iter()
            .filter(|name| !self.exports.iter().any(|export| export == name))
            .collect()
    }
}

/// Makes a guest's component: encodes a core module, leaves a component as it
/// is, and checks that it exports everything that a guest must.
///
/// # Errors
/// When the bytes are not Wasm, cannot be encoded, or are not a guest.
pub fn guest(bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    let component = match kind(&bytes)? {
        Kind::Component => bytes,
        Kind::CoreModule => encode(&bytes)?,
    };
    let missing = Interface::read(&component)?.missing_exports();
    if missing.is_empty() {
        Ok(component)
    } else {
        Err(Error::NotAGuest(missing.join(", ")))
    }
}

/// The names that are linked. A world also names types, which are not linked.
fn names<'a>(
    resolve: &Resolve,
    items: impl IntoIterator<Item = (&'a WorldKey, &'a WorldItem)>,
) -> Vec<String> {
    items
        .into_iter()
        .filter(|(_, item)| !matches!(item, WorldItem::Type { .. }))
        .map(|(key, _)| resolve.name_world_key(key))
        .collect()
}

fn encode(module: &[u8]) -> Result<Vec<u8>, Error> {
    ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| Error::Encode {
            reason: format!("{error:#}"),
        })
}

enum Kind {
    CoreModule,
    Component,
}

fn kind(bytes: &[u8]) -> Result<Kind, Error> {
    match bytes.strip_prefix(MAGIC).and_then(<[u8]>::first_chunk) {
        Some(&CORE_MODULE) => Ok(Kind::CoreModule),
        Some(&COMPONENT) => Ok(Kind::Component),
        _ => Err(Error::NotWasm),
    }
}

/// The reason for which bytes are no guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a module nor a component.
    #[error("this is not WebAssembly: give the file that `ostrakon build` wrote")]
    NotWasm,
    /// A core module instead of a component.
    #[error("this is a core module, not a component: make one with `ostrakon build`")]
    CoreModule,
    /// An encoded WIT package, without code.
    #[error("this is a WIT package without code, not a component: make one with `ostrakon build`")]
    WitPackage,
    #[error("this component is invalid: {reason}")]
    Decode {
        /// The decoder's whole message.
        reason: String,
    },
    /// The module cannot be made into a component.
    #[error(
        "this module cannot be made into a component: {reason}; build it for wasm32-unknown-unknown with the contract's bindings, or let its own toolchain make the component (componentize-py, jco, wasm-tools component new --adapt)"
    )]
    Encode {
        /// The encoder's whole message.
        reason: String,
    },
    /// The component lacks exports that a guest must have.
    #[error("this is not a guest of world `service`: it does not export {0}")]
    NotAGuest(String),
}

#[cfg(test)]
mod tests {
    use ostrakon_test_support::pages::rows;
    use wit_component::{StringEncoding, dummy_module, embed_component_metadata};
    use wit_parser::{LiftLowerAbi, ManglingAndAbi};

    use super::*;

    const CONTRACT: &str = include_str!("../../../wit/ostrakon.wit");

    /// A core module that is built for the one world of a WIT text.
    fn module(wit: &str) -> Vec<u8> {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("test.wit", wit).unwrap();
        let world = resolve.select_world(&[package], None).unwrap();
        let abi = ManglingAndAbi::Legacy(LiftLowerAbi::Sync);
        let mut module = dummy_module(&resolve, world, abi);
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        module
    }

    #[test]
    fn the_exports_are_those_of_the_contract() {
        let exports: Vec<_> = CONTRACT
            .lines()
            .filter_map(|line| line.trim().strip_prefix("export ")?.split(':').next())
            .collect();
        assert_eq!(exports, EXPORTS);
    }

    #[test]
    fn the_authors_guide_has_exactly_the_exports_and_imports_of_the_contract() {
        let guide = include_str!("../../README.md");
        let first_of = |head| {
            let rows = rows(guide, head).into_iter();
            rows.map(|row| row[0].trim_matches('`').to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(first_of("| export | when |"), EXPORTS, "guest/README.md");
        let imports: Vec<_> = CONTRACT
            .lines()
            .filter_map(|line| line.trim().strip_prefix("import ")?.strip_suffix(';'))
            .collect();
        assert_eq!(
            first_of("| import | what it gives |"),
            imports,
            "guest/README.md"
        );
    }

    #[test]
    fn the_errors_of_a_build_that_the_authors_guide_explains_are_there() {
        let sources = [
            include_str!("component.rs"),
            include_str!("build.rs"),
            include_str!("search/mod.rs"),
        ];
        let messages = sources.map(|source| {
            let (code, _) = source.split_once("mod tests").unwrap_or((source, ""));
            code.replace('`', "")
        });
        for row in rows(include_str!("../../README.md"), "| message | what to do |") {
            let message = row[0].replace('`', "");
            let message = message.trim_matches('.').trim();
            let is_there = messages.iter().any(|source| source.contains(message));
            assert!(is_there, "no error says {message:?}");
        }
    }

    #[test]
    fn a_module_of_the_contract_becomes_a_guest_whose_outside_can_be_read() {
        let component = guest(module(CONTRACT)).unwrap();
        let interface = Interface::read(&component).unwrap();
        assert_eq!(interface.exports, EXPORTS);
        let store = "ostrakon:shard/store@0.1.1".to_owned();
        assert!(interface.imports.contains(&store), "{interface:?}");
    }

    #[test]
    fn a_component_is_taken_as_it_is() {
        let component = guest(module(CONTRACT)).unwrap();
        assert_eq!(guest(component.clone()).unwrap(), component);
    }

    #[test]
    fn what_is_not_a_guest_is_refused_with_what_it_is() {
        let other_world = "package a:b; world w { export handle: func(); export check: func(); }";
        let truncated = {
            let mut component = guest(module(CONTRACT)).unwrap();
            component.truncate(component.len() / 2);
            component
        };
        let cases: [(&[u8], &str); 5] = [
            (b"", "not WebAssembly"),
            (b"\0asm\x07\0\0\0", "not WebAssembly"),
            (b"\0asm\x01\0\0\0", "does not export describe, check, owner"),
            (
                &module(other_world),
                "does not export describe, owner, route, gather, migrate",
            ),
            (&truncated, "this component is invalid"),
        ];
        for (bytes, reason) in cases {
            let error = guest(bytes.to_vec()).unwrap_err().to_string();
            assert!(error.contains(reason), "{reason:?} is not in {error:?}");
        }
    }

    #[test]
    fn a_core_module_is_not_read_as_a_component() {
        let error = Interface::read(&module(CONTRACT)).unwrap_err();
        assert!(matches!(error, Error::CoreModule), "{error}");
    }
}
