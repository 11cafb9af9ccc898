//! The contract as `wit-bindgen` makes it: the only unsafe code of a guest, all of it generated (the lint that denies
//! such code does not look into other crates' macros).
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::all,
    reason = "generated code; the contract's own documentation is in wit/"
)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "service",
    pub_export_macro: true,
    export_macro_name: "export_service",
    default_bindings_module: "ostrakon_guest::bindings",
    additional_derives: [PartialEq, Eq],
});
