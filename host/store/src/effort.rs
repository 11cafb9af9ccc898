//! How much work a caller lets one operation do.

/// Asked about each entry that an operation is about to go over, with its bytes. `false` ends the
/// operation there, unfinished: its result means nothing, and whoever said so knows it.
pub type GoOn<'a> = &'a mut dyn FnMut(usize) -> bool;

/// As much as there is: for the host's own work.
pub fn unbounded(_bytes: usize) -> bool {
    true
}
