//! Limits one call of an import: how long it may run, and how much it may collect for the guest.

use ostrakon_settings::settings::Settings;
use ostrakon_store::ENTRY_BYTES;
use wasmtime::Trap;

use super::copies::Copies;
use super::grace::Time;

/// The work between two checks of the clock, in bytes processed: tens of microseconds.
const STRIDE: usize = 64 << 10;

/// The cost of finding an item beyond its bytes. A page that is not in memory may be as large as
/// the largest value and takes milliseconds to read, even if little is found in it.
const ITEM: usize = STRIDE / 16;

/// The maximum overhead of a reply's headers in memory, beyond their bytes.
const HEADERS: usize = 2 << 20;

/// The limit on the bytes that one call of an import or export may pass in either direction: a
/// quarter of the guest's memory, or the largest value or reply if that is more. Data that cannot
/// fit into the guest's memory is not collected in the host's.
pub(super) fn most(settings: &Settings) -> usize {
    most_by(settings).0
}

/// The same limit, and the name of the setting that determines it.
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
        .expect("there are three limits");
    (most + HEADERS, name)
}

/// The limit on the elements that one call of an import may return.
pub(super) fn most_elements(settings: &Settings) -> usize {
    most(settings) / ENTRY_BYTES + 1
}

/// The limit on the memory of one request's changes, in bytes. It lets a request rewrite a whole
/// partition if the partition's entries are not tiny.
pub(super) fn most_held(settings: &Settings) -> usize {
    settings.store.max_partition_bytes.saturating_mul(8)
}

/// One call returned too much; an operator reads the reason.
#[derive(Debug, thiserror::Error)]
#[error("`{import}` has more than {most} bytes in one call: ask for less at once")]
pub(super) struct Excess {
    import: &'static str,
    most: usize,
}

/// The limits of one call of an import.
pub(super) struct Meter<'a> {
    time: &'a mut Time,
    copies: &'a mut Copies,
    most: usize,
    collected: usize,
    /// Bytes processed since the last check of the clock.
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

    /// Whether to continue with an item of this many bytes.
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

    /// Whether to copy an item of this many bytes out of the store. Exceeding the call's limit on
    /// copies counts as reaching its deadline.
    pub(super) fn copy(&mut self, bytes: usize) -> bool {
        if !self.copies.may(bytes) {
            self.end = Some(End::Late);
        }
        self.go_on(bytes)
    }

    /// Whether to copy an element of this many bytes for the guest, in addition to those before
    /// it.
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

    pub(super) fn goes_on(&self) -> bool {
        self.end.is_none()
    }

    /// Ends the guest's call if the import had to stop.
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

/// Ends the guest's call if the request's changes take too much memory.
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
