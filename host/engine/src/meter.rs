//! What one call of an import may still do: how long it may go on, and how much
//! it may collect for the guest.

use ostrakon_settings::settings::Settings;
use ostrakon_store::ENTRY_BYTES;
use wasmtime::Trap;

use super::copies::Copies;
use super::grace::Time;

/// The work between two looks at the clock, in bytes gone over: tens of
/// microseconds.
const STRIDE: usize = 64 << 10;

/// What finding an item counts beside its bytes: a page that is not in memory may be as large as
/// the largest value, and takes milliseconds to read, whatever is found in it.
const ITEM: usize = STRIDE / 16;

/// What a reply's headers take in memory beside their bytes, at the most.
const HEADERS: usize = 2 << 20;

/// The most bytes that one call of an import or export may hand over, either
/// way: a quarter of the guest's memory, or the largest value or reply where that
/// is more. What could not be in the guest's memory is not collected in the host's.
pub(super) fn most(settings: &Settings) -> usize {
    most_by(settings).0
}

/// The same, and the name of the setting that decides it.
pub(super) fn most_by(settings: &Settings) -> (usize, &'static str) {
    let value = settings.store.max_key_bytes + settings.store.max_value_bytes;
    let bounds = [
        (value, "store.max_value_bytes"),
        (settings.guest.max_reply_bytes, "guest.max_reply_bytes"),
        (settings.guest.max_memory / 4, "guest.max_memory"),
    ];
    let (most, name) = bounds
        .into_iter()
        .max_by_key(|(most, _)| *most)
        .expect("there are three");
    (most + HEADERS, name)
}

/// The most elements that one call of an import may give.
pub(super) fn most_elements(settings: &Settings) -> usize {
    most(settings) / ENTRY_BYTES + 1
}

/// The most memory that the changes of one request may take, in bytes: all of a
/// partition can be written anew, if its entries are not tiny.
pub(super) fn most_held(settings: &Settings) -> usize {
    settings.store.max_partition_bytes.saturating_mul(8)
}

/// One call gives more than it may: the reason that an operator reads.
#[derive(Debug, thiserror::Error)]
#[error("`{import}` has more than {most} bytes in one call: ask for less at once")]
pub(super) struct Excess {
    import: &'static str,
    most: usize,
}

/// One call of an import under way.
pub(super) struct Meter<'a> {
    time: &'a mut Time,
    copies: &'a mut Copies,
    most: usize,
    collected: usize,
    /// Bytes gone over since the clock was looked at.
    work: usize,
    end: Option<End>,
}

#[derive(Clone, Copy)]
enum End {
    Late,
    Full,
}

impl<'a> Meter<'a> {
    pub(super) fn new(time: &'a mut Time, copies: &'a mut Copies, most: usize) -> Self {
        Self {
            time,
            copies,
            most,
            collected: 0,
            work: 0,
            end: None,
        }
    }

    /// Whether to go on, to an item of so many bytes.
    pub(super) fn go_on(&mut self, bytes: usize) -> bool {
        self.work = self.work.saturating_add(bytes + ITEM);
        if self.work >= STRIDE {
            self.work = 0;
            if self.time.is_over() {
                self.end = Some(End::Late);
            }
        }
        self.goes_on()
    }

    /// Whether to copy an item of so many bytes out of the store: more than the call may copy is
    /// as if its time were over.
    pub(super) fn copy(&mut self, bytes: usize) -> bool {
        if !self.copies.may(bytes) {
            self.end = Some(End::Late);
        }
        self.go_on(bytes)
    }

    /// Whether to copy an element of so many bytes for the guest, beside those before it.
    pub(super) fn collect(&mut self, bytes: usize) -> bool {
        if !self.copy(bytes) {
            return false;
        }
        self.collected = self.collected.saturating_add(bytes + ENTRY_BYTES);
        if self.collected > self.most {
            self.end = Some(End::Full);
        }
        self.goes_on()
    }

    /// Whether nothing has ended the call so far.
    pub(super) fn goes_on(&self) -> bool {
        self.end.is_none()
    }

    /// Ends the guest's call, where the import was not to go on.
    pub(super) fn finish(self, import: &'static str) -> wasmtime::Result<()> {
        match self.end {
            None => Ok(()),
            Some(End::Late) => Err(Trap::Interrupt.into()),
            Some(End::Full) => Err(wasmtime::Error::new(Excess {
                import,
                most: self.most,
            })),
        }
    }
}

/// Ends the guest's call, where the changes of a request take more memory than
/// they may.
pub(super) fn check_held(held: usize, settings: &Settings) -> wasmtime::Result<()> {
    let most = most_held(settings);
    if held > most {
        return Err(wasmtime::Error::new(Excess {
            import: "store",
            most,
        }));
    }
    Ok(())
}
