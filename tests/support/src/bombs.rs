//! Small guests that take long to compile: a good guest with something added.

use wasm_encoder::{
    BlockType, CodeSection, Component, ComponentExportKind, ComponentExportSection,
    ComponentInstanceSection, ComponentSection as _, Function, FunctionSection, InstructionSink,
    Module, ModuleSection, NestedComponentSection, TypeSection, ValType,
};

/// A component that exports functions with these names, and contains nothing.
pub fn outside(exports: &[&str]) -> Vec<u8> {
    let mut section = ComponentExportSection::new();
    for name in exports {
        section.export(*name, ComponentExportKind::Func, 0, None);
    }
    let mut component = Component::new();
    component.section(&section);
    component.finish()
}

/// A guest with nested components and no code: each component holds `instances` instances of
/// the next, `depth` times.
pub fn nested(guest: &[u8], instances: u32, depth: u32) -> Vec<u8> {
    let mut component = Component::new();
    for _ in 0..depth {
        let mut outer = Component::new();
        outer.section(&NestedComponentSection(&component));
        let mut held = ComponentInstanceSection::new();
        for _ in 0..instances {
            let none: [(&str, ComponentExportKind, u32); 0] = [];
            held.instantiate(0, none);
        }
        outer.section(&held);
        component = outer;
    }
    let mut bytes = guest.to_vec();
    NestedComponentSection(&component).append_to_component(&mut bytes);
    let mut held = ComponentInstanceSection::new();
    let none: [(&str, ComponentExportKind, u32); 0] = [];
    held.instantiate(components(guest), none);
    held.append_to_component(&mut bytes);
    bytes
}

/// A guest with a module of many functions, each with many locals; `body` makes the functions'
/// bodies.
pub fn functions(
    guest: &[u8],
    functions: u32,
    locals: u32,
    body: impl Fn(&mut InstructionSink<'_>),
) -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([], []);
    let (mut declared, mut code) = (FunctionSection::new(), CodeSection::new());
    let mut function = Function::new([(locals, ValType::I32)]);
    let mut instructions = function.instructions();
    body(&mut instructions);
    instructions.end();
    for _ in 0..functions {
        declared.function(0);
        code.function(&function);
    }
    let mut module = Module::new();
    module.section(&types).section(&declared).section(&code);
    let mut bytes = guest.to_vec();
    ModuleSection(&module).append_to_component(&mut bytes);
    bytes
}

/// A guest with a function of `values` parameters and results, and another function, whose body
/// `body` makes. The type of the first function has the number 0.
///
/// # Panics
/// When there are 2^32 values or more.
pub fn passing(guest: &[u8], values: usize, body: impl Fn(&mut InstructionSink<'_>)) -> Vec<u8> {
    let mut types = TypeSection::new();
    types
        .ty()
        .function(vec![ValType::I32; values], vec![ValType::I32; values]);
    types.ty().function([ValType::I32], []);
    let (mut declared, mut code) = (FunctionSection::new(), CodeSection::new());
    declared.function(0).function(1);
    let locals = 0..u32::try_from(values).expect("there are few values");
    let mut same = Function::new([]);
    for local in locals.clone() {
        same.instructions().local_get(local);
    }
    same.instructions().end();
    let mut function = Function::new([]);
    let mut instructions = function.instructions();
    for _ in locals.clone() {
        instructions.local_get(0);
    }
    body(&mut instructions);
    for _ in locals {
        instructions.drop();
    }
    instructions.end();
    code.function(&same).function(&function);
    let mut module = Module::new();
    module.section(&types).section(&declared).section(&code);
    let mut bytes = guest.to_vec();
    ModuleSection(&module).append_to_component(&mut bytes);
    bytes
}

/// A body of `count` blocks, one after another, each of which takes and returns all values.
pub fn blocks(count: usize) -> impl Fn(&mut InstructionSink<'_>) {
    move |body| {
        for _ in 0..count {
            body.loop_(BlockType::FunctionType(0))
                .local_get(0)
                .br_if(0)
                .end();
        }
    }
}

/// A body of `count` calls, each of which takes and returns all values.
pub fn calls(count: usize) -> impl Fn(&mut InstructionSink<'_>) {
    move |body| {
        for _ in 0..count {
            body.call(0);
        }
    }
}

/// A body of `bytes` bytes that computes, with occasional branches.
pub fn long(bytes: usize) -> impl Fn(&mut InstructionSink<'_>) {
    move |body| {
        // Each step has seven bytes, and every 64th has nine more.
        for step in 0..bytes / 7 {
            body.local_get(0).i32_const(1).i32_add().local_set(0);
            if step % 64 == 0 {
                body.local_get(0)
                    .if_(BlockType::Empty)
                    .local_get(0)
                    .local_set(1)
                    .end();
            }
        }
    }
}

/// A body of nested loops, with many branches in the innermost; at each branch any local may
/// have another value.
pub fn branching(locals: u32, loops: u32, branches: u32) -> impl Fn(&mut InstructionSink<'_>) {
    move |body| {
        for _ in 0..loops {
            body.loop_(BlockType::Empty);
        }
        for branch in 0..branches {
            body.local_get(branch % locals).if_(BlockType::Empty);
            body.local_get((branch + 7) % locals)
                .local_set((branch * 13) % locals);
            body.end();
        }
        for level in 0..loops {
            body.local_get(level % locals).br_if(0).end();
        }
    }
}

/// A guest that takes long to compile, but no more memory than others. The number makes its content
/// unique.
pub fn slow(guest: &[u8], number: u8) -> Vec<u8> {
    let mut bytes = functions(guest, 200, 8, long(100_000));
    // A custom section with the name `n` and the number.
    bytes.extend([0, 3, 1, b'n', number]);
    bytes
}

/// The number of components that a component itself declares.
fn components(component: &[u8]) -> u32 {
    let mut rest = &component[8..];
    let mut count = 0;
    while let [id, tail @ ..] = rest {
        let mut size: usize = 0;
        let mut at = 0;
        loop {
            size |= usize::from(tail[at] & 0x7f) << (7 * at);
            at += 1;
            if tail[at - 1] & 0x80 == 0 {
                break;
            }
        }
        // The section of a nested component has the number 4.
        count += u32::from(*id == 4);
        rest = &tail[at + size..];
    }
    count
}
