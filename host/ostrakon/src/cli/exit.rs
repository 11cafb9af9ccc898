//! The process's exit codes. Those from 64 on are as in BSD's `sysexits.h`.

use std::process::ExitCode;

macro_rules! exits {
    ($($(#[$doc:meta])* $name:ident = $code:expr,)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Exit {
            $($(#[$doc])* $name = $code,)+
        }

        impl Exit {
            #[cfg(test)]
            pub(super) const ALL: &'static [Self] = &[$(Self::$name),+];
        }
    };
}

exits! {
    /// The command succeeded.
    Done = 0,
    /// The process ended with requests cut off.
    CutOff = 1,
    /// The arguments or the configuration are wrong.
    Usage = 64,
    /// The data is damaged.
    Damaged = ostrakon_observe::telemetry::DAMAGED,
    /// A port is taken, or an address does not answer.
    Unavailable = 69,
    /// This machine cannot run guests, or ostrakon itself failed.
    Internal = 70,
    /// A file or directory cannot be read or written, or a later version wrote it.
    Io = 74,
    /// The data directory is in use by another process.
    InUse = 75,
    /// Peers told this process that it must not go on, and no longer confirm it.
    Stopped = 76,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
