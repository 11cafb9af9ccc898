//! The contract's imports and exports, generated from `wit/`.

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "service",
    imports: { default: trappable },
    exports: { default: async },
    with: {
        "ostrakon:shard/secrets.secret": crate::imports::SecretHandle,
    },
    ownership: Borrowing { duplicate_if_necessary: true },
});
