//! Why a component is not compiled.

use std::io;
use std::time::Duration;

use bytesize::ByteSize;
use humantime_serde::re::humantime::format_duration;
use ostrakon_observe::metrics;

/// A component does not compile.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler says that it is not valid.
    #[error("{0}")]
    Invalid(String),
    /// It takes more memory than its settings give.
    #[error(
        "compiling the guest takes more than {} of memory: make it smaller, or raise guest.compile_memory",
        size(*.0)
    )]
    Memory(u64),
    /// It takes more memory than the container has left.
    #[error(
        "compiling the guest takes more than the {} that the container's memory limit leaves: make it smaller, or raise that limit",
        size(*.0)
    )]
    Room(u64),
    /// The container has hardly any memory left for anything.
    #[error(
        "the container's memory limit leaves {} to compile a guest, which takes {} at least: raise that limit, or let the shard hold less",
        size(*.left), size(*.least)
    )]
    NoRoom {
        /// What it leaves, in bytes.
        left: u64,
        /// What is needed.
        least: u64,
    },
    /// Others took the memory that it was given.
    #[error(
        "while the guest was compiled, the container's memory limit came to leave only {}: it is tried again; raise that limit, or let the shard hold less",
        size(*.left)
    )]
    Taken {
        /// What it left then, in bytes.
        left: u64,
    },
    /// It takes more processor time than its settings give.
    #[error(
        "compiling the guest takes more than {} of processor time: make it smaller, or raise guest.compile_cpu",
        format_duration(*.0)
    )]
    Cpu(Duration),
    /// It takes longer than its settings give.
    #[error(
        "the guest was not compiled within {}: make it smaller, or raise guest.compile_deadline",
        format_duration(*.0)
    )]
    Deadline(Duration),
    /// What it becomes is too large.
    #[error(
        "the guest compiles to {} of code, and there is room for {}: make it smaller, or raise the container's memory limit",
        size(*.code), size(*.most)
    )]
    Code {
        /// How much it becomes, in bytes.
        code: u64,
        /// How much of that is taken.
        most: u64,
    },
    /// Processes that compiled it died.
    #[error(
        "the shard died {attempts} times while it compiled this guest, so it is tried again only after a pause, which grows: change the guest, one of guest.compile_*, or the container's memory limit"
    )]
    Remembered {
        /// How often.
        attempts: u32,
    },
    /// It was a trial, and something else has to be compiled.
    #[error("another guest has to be compiled first: ask again soon")]
    GaveWay,
    /// Somebody else ended it.
    #[error(
        "the compiler was killed, perhaps for the memory it took: see that the node has enough"
    )]
    Killed,
    /// It failed by its own fault, or by the compiler's.
    #[error("the compiler failed: {0}")]
    Crashed(String),
    /// No process, thread or pipe could be had.
    #[error("the system does not give what compiling needs")]
    System(#[source] io::Error),
    /// That it is tried cannot be noted.
    #[error("the data directory does not take a note that the guest is compiled")]
    Note(#[source] io::Error),
}

impl CompileError {
    /// Whether the same component may compile later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::NoRoom { .. }
                | Self::Taken { .. }
                | Self::GaveWay
                | Self::Remembered { .. }
                | Self::Killed
                | Self::System(_)
                | Self::Note(_)
        )
    }

    pub(super) fn result(&self) -> metrics::Compile {
        match self {
            Self::Invalid(_) => metrics::Compile::Invalid,
            Self::Memory(_)
            | Self::Room(_)
            | Self::NoRoom { .. }
            | Self::Taken { .. }
            | Self::Cpu(_)
            | Self::Deadline(_)
            | Self::Code { .. } => metrics::Compile::Limit,
            Self::Remembered { .. } => metrics::Compile::Remembered,
            Self::GaveWay => metrics::Compile::Unwanted,
            Self::Killed | Self::Crashed(_) | Self::System(_) | Self::Note(_) => {
                metrics::Compile::Failed
            }
        }
    }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}
