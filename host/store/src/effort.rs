//! Lets a caller limit the work of one operation.

/// Called for each entry that an operation is about to process, with the entry's bytes. `false`
/// ends the operation unfinished: its result is then meaningless, and the caller must discard it.
pub type GoOn<'a> = &'a mut dyn FnMut(usize) -> bool;

/// Sets no limit: for the host's own work.
pub fn unbounded(_bytes: usize) -> bool {
    true
}
