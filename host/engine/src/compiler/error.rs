//! Why a component was not compiled.

use std::io;
use std::time::Duration;

use bytesize::ByteSize;
use humantime_serde::re::humantime::format_duration;
use ostrakon_observe::metrics;

#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler rejected the component.
    #[error("{0}")]
    Invalid(String),
    /// Compiling takes more memory than the settings allow.
    #[error(
        "compiling the guest takes more than {} of memory: make it smaller, or raise guest.compile_memory",
        size(*.0)
    )]
    Memory(u64),
    /// Compiling takes more memory than the container has left.
    #[error(
        "compiling the guest takes more than the {} that the container's memory limit leaves: make it smaller, or raise that limit",
        size(*.0)
    )]
    Room(u64),
    /// The container has too little memory left to start a compile.
    #[error(
        "the container's memory limit leaves only {} for compiling a guest, which needs at least {}: raise that limit, or let the shard hold less",
        size(*.left), size(*.least)
    )]
    NoRoom {
        /// The memory left, in bytes.
        left: u64,
        /// The memory needed, in bytes.
        least: u64,
    },
    /// Others took the memory that the compile was given.
    #[error(
        "while the guest was being compiled, the memory left by the container's limit fell to {}: the compile is retried; raise that limit, or let the shard hold less",
        size(*.left)
    )]
    Taken {
        /// The memory left at that time, in bytes.
        left: u64,
    },
    /// Compiling takes more processor time than the settings allow.
    #[error(
        "compiling the guest takes more than {} of processor time: make it smaller, or raise guest.compile_cpu",
        format_duration(*.0)
    )]
    Cpu(Duration),
    /// Compiling takes longer than the settings allow.
    #[error(
        "the guest was not compiled within {}: make it smaller, or raise guest.compile_deadline",
        format_duration(*.0)
    )]
    Deadline(Duration),
    #[error(
        "the guest compiles to {} of code, but there is room only for {}: make it smaller, or raise the container's memory limit",
        size(*.code), size(*.most)
    )]
    Code {
        /// The size of the code, in bytes.
        code: u64,
        /// The size allowed, in bytes.
        most: u64,
    },
    #[error(
        "the shard died {attempts} times while it compiled this guest, so the next attempt waits for a pause, which grows with each one: change the guest, one of guest.compile_*, or the container's memory limit"
    )]
    Remembered {
        /// How many processes died.
        attempts: u32,
    },
    /// This was a trial, and another component must be compiled first.
    #[error("another guest must be compiled first: try again soon")]
    GaveWay,
    #[error(
        "the compiler was killed, perhaps because the node ran out of memory: check that it has enough"
    )]
    Killed,
    /// The compiler failed through its own fault, or that of the component.
    #[error("the compiler failed: {0}")]
    Crashed(String),
    /// The system did not provide a process, thread or pipe.
    #[error("the system cannot start the compiler")]
    System(#[source] io::Error),
    /// The note of the attempt cannot be written.
    #[error("cannot write the note of the compile to the data directory")]
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
