//! Counts the compiler's work for a component before the component is compiled.
//!
//! One pass over the bytes, in time and memory proportional to their number. It counts what
//! compilers take long over. An instance counts for all its contents, however few bytes describe
//! it. A component that passes is bounded, but not necessarily valid: the compiler validates the
//! rest, within its own limits.

use ostrakon_toolchain::component::EXPORTS;
use wasmparser::{
    BinaryReaderError, BlockType, ComponentAlias, ComponentExternalKind, ComponentInstance,
    ComponentOuterAliasKind, CompositeInnerType, Encoding, FunctionBody, Instance, Operator,
    Parser, Payload, TypeRef,
};

/// Declares limits as constants, and all of them, in the order of the table in host/README.md, for
/// its test.
macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $most:expr,)+) => {
        $($(#[$doc])* const $name: u64 = $most;)+

        #[cfg(test)]
        const LIMITS: &[u64] = &[$($name),+];
    };
}

limits! {
    /// Functions in all modules: large guests have some 20,000.
    MAX_FUNCTIONS: 65_536,
    /// The bytes of one function's body.
    MAX_BODY: 2 << 20,
    /// The locals of one function, its parameters included.
    MAX_LOCALS: 10_000,
    /// The number of a function's locals times the number of points where its control flow splits or
    /// joins, for one function and for all: the cost of finding out which locals hold which values.
    MAX_FLOW: 32 << 20,
    MAX_FLOW_OF_ALL: 512 << 20,
    /// The parameters and results of a function's blocks, by their types, times the number of those
    /// points. The compiler was seen to take 10 MiB for each million, so that 7 kB of code asked for
    /// gigabytes.
    MAX_BLOCK_FLOW: 64 << 20,
    /// The parameters and results of called functions, counted per call, for one function and for
    /// all: half a million took 540 MiB and 7 s.
    MAX_CALL_VALUES: 512 << 10,
    MAX_CALL_VALUES_OF_ALL: 8 << 20,
    /// The parameters and results of all functions: if the functions can be called from outside, a
    /// million took 26 s and became 30 MB.
    MAX_SIGNATURES: 1 << 20,
    /// Core modules, and components that are not instantiated.
    MAX_MODULES: 1000,
    /// Nested components, including the guest itself.
    MAX_DEPTH: 16,
    /// Type declarations, and their bytes.
    MAX_TYPES: 100_000,
    MAX_TYPE_BYTES: 4 << 20,
    /// Imports, exports, globals, tables, segments and the like.
    MAX_ITEMS: 500_000,
    /// Steps of instantiation: everything that the components declare, counted as often as they are
    /// instantiated.
    MAX_STEPS: 100_000,
}

/// How much of a name is shown, in characters.
const MAX_NAME: usize = 200;

/// The prefixes of the names that a guest may import.
const OFFERED: [&str; 7] = [
    "ostrakon:shard/",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

/// The world of guests, with the version of the contract.
pub(super) const WORLD: &str = "ostrakon:shard/service@0.1.1";

/// What to do about an import that no shard offers.
fn instead(import: &str) -> String {
    let is_of = |prefixes: &[&str]| prefixes.iter().any(|prefix| import.starts_with(prefix));
    let hint = if is_of(&["wasi:http/"]) {
        "the host calls `handle` with each request, and a guest makes none itself; export its world"
    } else if is_of(&["wasi:keyvalue/", "wasi:blobstore/", "wasi:sql/"]) {
        "keep data with ostrakon:shard/store"
    } else if is_of(&["wasi:config/", "wasi:runtime-config/"]) {
        "read the ConfigMap with ostrakon:shard/settings"
    } else if is_of(&["wasi:logging/"]) {
        "write to ostrakon:shard/log, or to standard output"
    } else if is_of_wasi_0_3(import) {
        "build it for WASI 0.2, without async functions"
    } else {
        return format!("build it for world {WORLD}");
    };
    hint.to_owned()
}

fn is_of_wasi_0_3(import: &str) -> bool {
    import.starts_with("wasi:") && import.contains("@0.3.")
}

/// Why a component is not compiled at all.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The component is damaged, or of another version.
    #[error("the guest cannot be read: {0}; make it with `ostrakon build`")]
    Damaged(#[from] BinaryReaderError),
    /// The component refers to an item that it does not have.
    #[error("the guest cannot be read: it uses a component that it does not declare")]
    Undeclared,
    /// The component lacks an export of the contract.
    #[error("the guest does not export {0}: build it for world {world}", world = WORLD)]
    Exports(String),
    /// The component imports something that no shard offers.
    #[error("the guest imports {0:?}, which no shard offers: {hint}", hint = instead(.0))]
    Import(String),
    /// The component's size cannot be counted.
    #[error(
        "a component in the guest takes another component as an argument: compose them with their code inlined, so that the compiler's work can be counted"
    )]
    Given,
    #[error("the guest has {has} {what}, and at most {most} are allowed: make it smaller")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// The number found so far; there may be more.
        has: u64,
        most: u64,
    },
}

/// Reads all bytes of a component once, and nothing else.
///
/// # Errors
/// If the component is too large to compile, is not a guest, or cannot be read.
pub fn examine(component: &[u8]) -> Result<(), Unfit> {
    let mut extent = Extent::default();
    for payload in Parser::new(0).parse_all(component) {
        extent.take(payload?)?;
    }
    if let Some(import) = extent.import {
        return Err(Unfit::Import(import));
    }
    let missing = EXPORTS.into_iter().filter(|name| {
        let mut exports = extent.exports.iter();
        !exports.any(|export| export == name)
    });
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Unfit::Exports(missing.join(", ")))
    }
}

/// The counts so far.
#[derive(Default)]
struct Extent {
    /// The component that is being read, and those around it; modules are included.
    open: Vec<Level>,
    modules: u64,
    functions: u64,
    flow: u64,
    signatures: u64,
    call_values: u64,
    types: u64,
    type_bytes: u64,
    items: u64,
    /// The functions that the outermost component exports.
    exports: Vec<String>,
    /// The first import that is not allowed.
    import: Option<String>,
}

/// A component or a module that is being read.
#[derive(Default)]
struct Level {
    /// The steps of instantiating each component that this one can name, by index.
    components: Vec<u64>,
    /// The steps of instantiating this component.
    steps: u64,
    is_component: bool,
    /// The types that a module declares, by index.
    types: Vec<Taken>,
    /// The index of the type of each function, imported functions first.
    functions: Vec<u32>,
    /// The number of functions that are imported, or whose bodies were read.
    bodies: usize,
}

/// How many parameters and results a function or block has.
#[derive(Clone, Copy, Default)]
struct Taken {
    parameters: u16,
    results: u16,
}

impl Taken {
    fn values(self) -> u64 {
        u64::from(self.parameters) + u64::from(self.results)
    }
}

impl Level {
    /// The parameters and results of a type. The compiler rejects an index that is not a function
    /// type.
    fn of_type(&self, number: u32) -> Taken {
        self.types.get(number as usize).copied().unwrap_or_default()
    }

    fn of_function(&self, number: u32) -> Taken {
        let number = self.functions.get(number as usize);
        number.map_or_else(Taken::default, |number| self.of_type(*number))
    }

    fn of_block(&self, block: BlockType) -> u64 {
        match block {
            BlockType::Empty => 0,
            BlockType::Type(_) => 1,
            BlockType::FuncType(number) => self.of_type(number).values(),
        }
    }
}

impl Extent {
    fn take(&mut self, payload: Payload<'_>) -> Result<(), Unfit> {
        match payload {
            Payload::Version { encoding, .. } => self.open.push(Level {
                is_component: encoding == Encoding::Component,
                ..Level::default()
            }),
            Payload::End(_) => self.close(),
            Payload::ModuleSection { .. } => self.add_module()?,
            Payload::ComponentSection { .. } => {
                let depth = self.open.len() as u64 + 1;
                at_most("components within each other", depth, MAX_DEPTH)?;
                self.add_module()?;
            }
            Payload::TypeSection(types) => {
                self.add_types(types.count(), types.range().len())?;
                for group in types {
                    for of in group?.types() {
                        self.name_type(&of.composite_type.inner);
                    }
                }
            }
            Payload::CoreTypeSection(types) => {
                self.add_types(types.count(), types.range().len())?;
            }
            Payload::ComponentTypeSection(types) => {
                // Only counted: types may be nested as deeply as their bytes allow.
                self.add_types(types.count(), types.range().len())?;
                self.step(types.count().into())?;
            }
            Payload::FunctionSection(functions) => {
                self.functions += u64::from(functions.count());
                at_most("functions", self.functions, MAX_FUNCTIONS)?;
                for function in functions {
                    self.name_function(function?)?;
                }
            }
            Payload::CodeSectionEntry(body) => self.add_body(&body)?,
            Payload::ImportSection(section) => {
                self.add_items(section.count())?;
                for import in section.into_imports() {
                    if let TypeRef::Func(of) | TypeRef::FuncExact(of) = import?.ty {
                        self.name_function(of)?;
                        if let Some(level) = self.open.last_mut() {
                            level.bodies += 1;
                        }
                    }
                }
            }
            Payload::TableSection(section) => self.add_items(section.count())?,
            Payload::MemorySection(section) => self.add_items(section.count())?,
            Payload::TagSection(section) => self.add_items(section.count())?,
            Payload::GlobalSection(section) => self.add_items(section.count())?,
            Payload::ExportSection(section) => self.add_items(section.count())?,
            Payload::ElementSection(section) => self.add_items(section.count())?,
            Payload::DataSection(section) => self.add_items(section.count())?,
            component => self.take_of_component(component)?,
        }
        Ok(())
    }

    fn take_of_component(&mut self, payload: Payload<'_>) -> Result<(), Unfit> {
        match payload {
            Payload::InstanceSection(instances) => {
                self.add_items(instances.count())?;
                for instance in instances {
                    let parts = match instance? {
                        Instance::Instantiate { args, .. } => args.len(),
                        Instance::FromExports(exports) => exports.len(),
                    };
                    self.step(1 + parts as u64)?;
                }
            }
            Payload::ComponentInstanceSection(instances) => {
                self.add_items(instances.count())?;
                for instance in instances {
                    let steps = match instance? {
                        ComponentInstance::Instantiate {
                            component_index,
                            args,
                        } => self
                            .component(0, component_index)?
                            .saturating_add(args.len() as u64),
                        ComponentInstance::FromExports(exports) => exports.len() as u64,
                    };
                    self.step(steps.saturating_add(1))?;
                }
            }
            Payload::ComponentAliasSection(aliases) => {
                self.add_items(aliases.count())?;
                for alias in aliases {
                    self.add_alias(&alias?)?;
                }
            }
            Payload::ComponentCanonicalSection(functions) => {
                self.add_items(functions.count())?;
                self.step(functions.count().into())?;
            }
            Payload::ComponentStartSection { .. } => self.step(1)?,
            Payload::ComponentImportSection(imports) => {
                self.add_items(imports.count())?;
                for import in imports {
                    let import = import?;
                    let (name, kind) = (import.name.name, import.ty.kind());
                    if self.open.len() == 1 {
                        if !may_import(name, kind) && self.import.is_none() {
                            self.import = Some(name.chars().take(MAX_NAME).collect());
                        }
                    } else if kind == ComponentExternalKind::Component {
                        return Err(Unfit::Given);
                    }
                    self.step(1)?;
                }
            }
            Payload::ComponentExportSection(exports) => {
                self.add_items(exports.count())?;
                for export in exports {
                    let export = export?;
                    if export.kind == ComponentExternalKind::Component {
                        let steps = self.component(0, export.index)?;
                        self.name_component(steps);
                    }
                    let is_outermost = self.open.len() == 1;
                    if is_outermost && export.kind == ComponentExternalKind::Func {
                        self.exports.push(export.name.name.to_owned());
                    }
                    self.step(1)?;
                }
            }
            // Custom sections, and sections that only the compiler reads.
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self) {
        let Some(closed) = self.open.pop() else {
            return;
        };
        if closed.is_component {
            self.name_component(closed.steps);
        }
    }

    fn name_component(&mut self, steps: u64) {
        if let Some(level) = self.open.last_mut() {
            level.components.push(steps);
        }
    }

    /// The steps of instantiating a component, by its index in the component `outside` levels
    /// outward.
    fn component(&self, outside: u32, number: u32) -> Result<u64, Unfit> {
        let level = self.open.iter().rev().nth(outside as usize);
        let steps = level.and_then(|level| level.components.get(number as usize));
        steps.copied().ok_or(Unfit::Undeclared)
    }

    fn add_alias(&mut self, alias: &ComponentAlias<'_>) -> Result<(), Unfit> {
        match *alias {
            ComponentAlias::Outer {
                kind: ComponentOuterAliasKind::Component,
                count,
                index,
            } => {
                let steps = self.component(count, index)?;
                self.name_component(steps);
            }
            ComponentAlias::InstanceExport {
                kind: ComponentExternalKind::Component,
                ..
            } => return Err(Unfit::Given),
            _ => {}
        }
        self.step(1)
    }

    /// Counts the cost of instantiating the component that is being read.
    fn step(&mut self, steps: u64) -> Result<(), Unfit> {
        let Some(level) = self.open.last_mut() else {
            return Ok(());
        };
        level.steps = level.steps.saturating_add(steps);
        at_most("steps to instantiate it", level.steps, MAX_STEPS)
    }

    fn add_module(&mut self) -> Result<(), Unfit> {
        self.modules += 1;
        at_most("modules and components", self.modules, MAX_MODULES)
    }

    fn add_types(&mut self, count: u32, bytes: usize) -> Result<(), Unfit> {
        self.types += u64::from(count);
        self.type_bytes += bytes as u64;
        at_most("types", self.types, MAX_TYPES)?;
        at_most("bytes of types", self.type_bytes, MAX_TYPE_BYTES)
    }

    fn add_items(&mut self, count: u32) -> Result<(), Unfit> {
        self.items += u64::from(count);
        at_most("imports, exports and the like", self.items, MAX_ITEMS)
    }

    fn name_type(&mut self, of: &CompositeInnerType) {
        let taken = match of {
            CompositeInnerType::Func(of) => {
                let count = |types: &[_]| u16::try_from(types.len()).unwrap_or(u16::MAX);
                Taken {
                    parameters: count(of.params()),
                    results: count(of.results()),
                }
            }
            _ => Taken::default(),
        };
        if let Some(level) = self.open.last_mut() {
            level.types.push(taken);
        }
    }

    fn name_function(&mut self, of: u32) -> Result<(), Unfit> {
        if let Some(level) = self.open.last_mut() {
            level.functions.push(of);
            self.signatures += level.of_type(of).values();
        }
        let what = "parameters and results of functions";
        at_most(what, self.signatures, MAX_SIGNATURES)
    }

    fn add_body(&mut self, body: &FunctionBody<'_>) -> Result<(), Unfit> {
        let bytes = body.range().len() as u64;
        at_most("bytes in one function", bytes, MAX_BODY)?;
        let Some(level) = self.open.last_mut() else {
            return Ok(());
        };
        let number = u32::try_from(level.bodies).unwrap_or(u32::MAX);
        level.bodies += 1;
        let mut locals = u64::from(level.of_function(number).parameters);
        for declared in body.get_locals_reader()? {
            locals += u64::from(declared?.0);
        }
        at_most("locals in one function", locals, MAX_LOCALS)?;
        let (mut places, mut of_blocks, mut of_calls) = (0, 0, 0);
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let operator = operators.read()?;
            places += places_of(&operator);
            of_blocks += block_values(&operator, level);
            of_calls += call_values(&operator, level);
        }
        let what = "parameters and results of calls in one function";
        at_most(what, of_calls, MAX_CALL_VALUES)?;
        self.call_values += of_calls;
        let what = "parameters and results of calls in all functions";
        at_most(what, self.call_values, MAX_CALL_VALUES_OF_ALL)?;
        let block_flow = of_blocks * places;
        let what = "block values times branch points in one function";
        at_most(what, block_flow, MAX_BLOCK_FLOW)?;
        let flow = locals * places;
        let what = "locals times branch points in one function";
        at_most(what, flow, MAX_FLOW)?;
        self.flow += flow + block_flow;
        let what = "locals and block values times branch points in all functions";
        at_most(what, self.flow, MAX_FLOW_OF_ALL)
    }
}

/// The number of points that an operator adds at which the control flow splits or joins.
fn places_of(operator: &Operator<'_>) -> u64 {
    match operator {
        Operator::If { .. } => 3,
        Operator::Block { .. }
        | Operator::Loop { .. }
        | Operator::Else
        | Operator::TryTable { .. }
        | Operator::BrIf { .. }
        | Operator::BrOnNull { .. }
        | Operator::BrOnNonNull { .. } => 1,
        Operator::BrTable { targets } => u64::from(targets.len()) + 1,
        _ => 0,
    }
}

/// The number of parameters and results of the block that an operator begins.
fn block_values(operator: &Operator<'_>, level: &Level) -> u64 {
    match operator {
        Operator::Block { blockty } | Operator::Loop { blockty } | Operator::If { blockty } => {
            level.of_block(*blockty)
        }
        Operator::TryTable { try_table } => level.of_block(try_table.ty),
        _ => 0,
    }
}

/// The number of parameters and results of a call.
fn call_values(operator: &Operator<'_>, level: &Level) -> u64 {
    let called = match operator {
        Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
            level.of_function(*function_index)
        }
        Operator::CallIndirect { type_index, .. }
        | Operator::ReturnCallIndirect { type_index, .. }
        | Operator::CallRef { type_index }
        | Operator::ReturnCallRef { type_index } => level.of_type(*type_index),
        _ => return 0,
    };
    called.values()
}

fn may_import(name: &str, kind: ComponentExternalKind) -> bool {
    match kind {
        ComponentExternalKind::Instance => {
            OFFERED.iter().any(|of| name.starts_with(of)) && !is_of_wasi_0_3(name)
        }
        // Linking checks whether this is the type of an import.
        ComponentExternalKind::Type => true,
        _ => false,
    }
}

fn at_most(what: &'static str, has: u64, most: u64) -> Result<(), Unfit> {
    if has <= most {
        Ok(())
    } else {
        Err(Unfit::TooMuch { what, has, most })
    }
}

#[cfg(test)]
mod tests;
