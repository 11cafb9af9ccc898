//! Components that pass and components that are rejected, for each limit.

use ostrakon_test_support::bombs::{
    blocks, branching, calls, functions, long, nested, outside, passing,
};
use ostrakon_test_support::pages::rows;
use wasm_encoder::{
    Alias, Component, ComponentExportKind, ComponentExportSection, ComponentImportSection,
    ComponentOuterAliasKind, ComponentSection as _, ComponentTypeRef, ComponentTypeSection,
    NestedComponentSection, PrimitiveValType,
};

use super::*;

fn guest_outside() -> Vec<u8> {
    outside(&EXPORTS)
}

fn with(sections: &[&dyn wasm_encoder::ComponentSection]) -> Vec<u8> {
    let mut bytes = guest_outside();
    for section in sections {
        section.append_to_component(&mut bytes);
    }
    bytes
}

#[track_caller]
fn refused(component: &[u8], expected: &str) {
    let error = examine(component).expect_err("it is too much").to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn instances_count_for_all_that_they_hold_and_as_often() {
    let guest = guest_outside();
    examine(&guest).expect("nothing is in it");
    examine(&nested(&guest, 10, 4)).expect("some ten thousand");
    for depth in 5..12 {
        let bomb = nested(&guest, 10, depth);
        assert!(bomb.len() < 1000, "{} bytes", bomb.len());
        refused(&bomb, "steps to instantiate it, and at most 100000");
    }
    refused(&nested(&guest, 1, 16), "components within each other");
}

#[test]
fn components_go_by_their_number_wherever_it_comes_from() {
    let inner = {
        let mut component = Component::new();
        component.section(&{
            let mut held = wasm_encoder::ComponentInstanceSection::new();
            for _ in 0..60_000 {
                let none: [(&str, ComponentExportKind, u32); 0] = [];
                held.export_items(none);
            }
            held
        });
        component
    };
    let twice = |number: u32| {
        let mut held = wasm_encoder::ComponentInstanceSection::new();
        let none: [(&str, ComponentExportKind, u32); 0] = [];
        held.instantiate(number, none).instantiate(number, none);
        held
    };
    let inner = NestedComponentSection(&inner);
    examine(&with(&[&inner])).expect("it is there once");
    refused(&with(&[&inner, &twice(0)]), "steps to instantiate");
    refused(&with(&[&inner, &twice(1)]), "does not declare");
    // The component under another index: through an export, and through an alias of an outer
    // component.
    let mut export = ComponentExportSection::new();
    export.export("again", ComponentExportKind::Component, 0, None);
    refused(&with(&[&inner, &export, &twice(1)]), "steps to instantiate");
    let mut alias = wasm_encoder::ComponentAliasSection::new();
    alias.alias(Alias::Outer {
        kind: ComponentOuterAliasKind::Component,
        count: 1,
        index: 0,
    });
    let mut within = Component::new();
    within.section(&alias).section(&twice(0));
    let within = NestedComponentSection(&within);
    refused(&with(&[&inner, &within]), "steps to instantiate");
}

#[test]
fn components_that_are_given_to_others_are_not_counted_and_so_refused() {
    let mut types = ComponentTypeSection::new();
    types.component(&wasm_encoder::ComponentType::new());
    let mut imports = ComponentImportSection::new();
    imports.import("given", ComponentTypeRef::Component(0));
    let mut within = Component::new();
    within.section(&types).section(&imports);
    refused(
        &with(&[&NestedComponentSection(&within)]),
        "takes another component",
    );
    let mut alias = wasm_encoder::ComponentAliasSection::new();
    alias.alias(Alias::InstanceExport {
        instance: 0,
        kind: ComponentExportKind::Component,
        name: "given",
    });
    refused(&with(&[&alias]), "takes another component");
}

#[test]
fn functions_their_length_and_their_flow_are_bounded() {
    let guest = guest_outside();
    let none = |_: &mut wasm_encoder::InstructionSink<'_>| {};
    examine(&functions(&guest, 60_000, 1, none)).expect("as many as large guests have");
    refused(&functions(&guest, 100_000, 1, none), "100000 functions");
    examine(&functions(&guest, 8, 2, long(1_500_000))).expect("long ones");
    refused(
        &functions(&guest, 8, 2, long(7_500_000)),
        "bytes in one function",
    );
    refused(
        &functions(&guest, 1, 10_001, none),
        "locals in one function",
    );
    examine(&functions(&guest, 1, 500, branching(500, 20, 10_000))).expect("an interpreter");
    let flow = functions(&guest, 1, 2000, branching(2000, 20, 60_000));
    assert!(flow.len() < 1 << 20, "{} bytes", flow.len());
    refused(&flow, "in one function");
    let many = functions(&guest, 50, 500, branching(500, 20, 10_000));
    refused(&many, "in all functions");
}

/// A block with a thousand parameters has two bytes of code, but takes the compiler megabytes.
#[test]
fn what_functions_blocks_and_calls_take_and_give_is_bounded() {
    let guest = guest_outside();
    // These take about 400 MiB each; twice as many would take more than a gigabyte.
    for (values, count) in [(1000, 100), (100, 320), (1, 4000)] {
        examine(&passing(&guest, values, blocks(count)))
            .expect("a guest with few of them is accepted");
        let bomb = passing(&guest, values, blocks(2 * count));
        refused(&bomb, "block values times branch points in one function");
    }
    for (values, count) in [(1000, 250), (8, 30_000)] {
        examine(&passing(&guest, values, calls(count)))
            .expect("a guest with few of them is accepted");
        let bomb = passing(&guest, values, calls(20 * count));
        refused(&bomb, "parameters and results of calls in one function");
    }
    // A function's parameters count as locals, too.
    let few = |body: &mut wasm_encoder::InstructionSink<'_>| branching(1, 0, 10_000)(body);
    examine(&with_parameters(1, 1000, few)).expect("a guest with few of them is accepted");
    let many = |body: &mut wasm_encoder::InstructionSink<'_>| branching(1, 0, 20_000)(body);
    refused(
        &with_parameters(1, 1000, many),
        "times branch points in one function",
    );
    let empty = |_: &mut wasm_encoder::InstructionSink<'_>| {};
    examine(&with_parameters(1000, 1000, empty)).expect("many");
    let bomb = with_parameters(1100, 1000, empty);
    assert!(bomb.len() < 7_000, "{} bytes", bomb.len());
    refused(&bomb, "parameters and results of functions, and at most");
}

/// A guest with a module of `count` functions with this many parameters, after an imported
/// function without any.
fn with_parameters(
    count: u32,
    parameters: usize,
    body: impl Fn(&mut wasm_encoder::InstructionSink<'_>),
) -> Vec<u8> {
    let mut types = wasm_encoder::TypeSection::new();
    types.ty().function([], []);
    let of = vec![wasm_encoder::ValType::I32; parameters];
    types.ty().function(of, []);
    let mut imports = wasm_encoder::ImportSection::new();
    imports.import("", "", wasm_encoder::EntityType::Function(0));
    let mut declared = wasm_encoder::FunctionSection::new();
    let mut code = wasm_encoder::CodeSection::new();
    let mut function = wasm_encoder::Function::new([]);
    body(&mut function.instructions());
    function.instructions().end();
    for _ in 0..count {
        declared.function(1);
        code.function(&function);
    }
    let mut module = wasm_encoder::Module::new();
    module
        .section(&types)
        .section(&imports)
        .section(&declared)
        .section(&code);
    with(&[&wasm_encoder::ModuleSection(&module)])
}

#[test]
fn types_and_items_are_bounded() {
    let types = |count: usize| {
        let mut types = ComponentTypeSection::new();
        for _ in 0..count {
            types.defined_type().primitive(PrimitiveValType::Bool);
        }
        types
    };
    examine(&with(&[&types(50_000)])).expect("many");
    refused(&with(&[&types(100_001)]), "types, and at most");
}

/// Reading nested types costs time in proportion to their depth, so they are left to the compiler.
#[test]
fn types_within_types_are_not_gone_into() {
    let depth = 1_000_000;
    let mut section = vec![1];
    // A component type whose only declaration is a type, which is again a component type, and so
    // on.
    for _ in 0..depth {
        section.extend([0x41, 1, 1]);
    }
    let mut bytes = guest_outside();
    wasm_encoder::RawSection {
        id: 7,
        data: &section,
    }
    .append_to_component(&mut bytes);
    examine(&bytes).expect("a short component is accepted");
}

#[test]
fn its_outside_has_to_be_that_of_a_guest() {
    refused(
        b"\0asm\x0d\0\x01\0",
        "does not export describe, check, owner",
    );
    let mut types = ComponentTypeSection::new();
    types.instance(&wasm_encoder::InstanceType::new());
    let import = |name: &str, kind| {
        let mut imports = ComponentImportSection::new();
        imports.import(name, kind);
        imports
    };
    let instance = ComponentTypeRef::Instance(0);
    for name in ["ostrakon:shard/store@0.1.1", "wasi:io/streams@0.2.6"] {
        examine(&with(&[&types, &import(name, instance)])).expect("it is offered");
    }
    for (name, hint) in [
        (
            "wasi:http/types@0.2.6",
            "the host calls `handle` with each request",
        ),
        ("wasi:keyvalue/store@0.2.0-draft", "ostrakon:shard/store"),
        ("wasi:config/store@0.2.0-draft", "ostrakon:shard/settings"),
        ("wasi:clocks/monotonic-clock@0.3.0", "build it for WASI 0.2"),
        ("other:package/thing", "build it for world"),
    ] {
        let guest = with(&[&types, &import(name, instance)]);
        refused(&guest, name);
        refused(&guest, hint);
    }
    refused(
        &with(&[&types, &import("f", ComponentTypeRef::Func(0))]),
        "\"f\"",
    );
}

#[test]
fn what_is_cut_off_or_garbled_is_an_error_wherever_that_is() {
    let whole = functions(&nested(&guest_outside(), 3, 3), 3, 3, branching(3, 2, 5));
    let mut seed = 0x9e37_79b9_u32;
    let mut refusals = 0;
    for at in 8..whole.len() {
        assert!(examine(&whole[..at]).is_err() || at > guest_outside().len() - 1);
        let mut garbled = whole.clone();
        seed = seed.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
        garbled[at] ^= seed.to_le_bytes()[3] | 1;
        refusals += usize::from(examine(&garbled).is_err());
    }
    println!("{refusals} of {} changed bytes are refused", whole.len());
    assert!(refusals > whole.len() / 4);
}

/// The numbers in a cell: `64 MiB, 10,000 locals` has two.
fn numbers(cell: &str) -> Vec<u64> {
    let words: Vec<_> = cell.split(' ').collect();
    let numbers = words.iter().enumerate().filter_map(|(at, word)| {
        let number: u64 = word.replace(',', "").parse().ok()?;
        let unit = words.get(at + 1).map_or("", |unit| unit.trim_matches(','));
        Some(match unit {
            "Ki" | "KiB" => number << 10,
            "Mi" | "MiB" => number << 20,
            _ => number,
        })
    });
    numbers.collect()
}

#[test]
fn the_reference_has_exactly_these_limits() {
    let rows = rows(include_str!("../../../README.md"), "| limit | most |");
    let (unpacked, rows) = rows.split_first().expect("it has rows");
    assert_eq!(unpacked[0], "unpacked size", "which is checked before");
    let shown: Vec<_> = rows.iter().flat_map(|row| numbers(row[1])).collect();
    assert_eq!(shown, LIMITS, "host/README.md, and `limits!`");
}

#[test]
fn the_world_is_that_of_the_contract() {
    let contract = include_str!("../../../../wit/ostrakon.wit");
    let mut lines = contract.lines();
    let package = lines.find_map(|line| line.strip_prefix("package ")?.strip_suffix(';'));
    let package = package.expect("the contract names its package");
    assert_eq!(WORLD, package.replacen('@', "/service@", 1));
    let guide = include_str!("../../../../guest/README.md");
    assert!(guide.contains(WORLD), "guest/README.md names another world");
}
