//! Limits how many things a guest can wait for at once through WASI: as many as an instance can
//! hold.

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime::ensure;
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::io::poll::{self, Host, HostPollable};

use super::context::{Context, MAX_HANDLES};

/// `wasi:io/poll` over an instance's handles.
struct Polls<'a>(&'a mut ResourceTable);

struct HasPolls;

impl HasData for HasPolls {
    type Data<'a> = Polls<'a>;
}

/// Replaces wasmtime's implementation of this interface.
pub(super) fn add_to_linker(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    poll::add_to_linker::<_, HasPolls>(linker, |context| Polls(&mut context.table))?;
    linker.allow_shadowing(false);
    Ok(())
}

impl Host for Polls<'_> {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        // The list may name the same pollable any number of times, and each is looked up.
        ensure!(
            pollables.len() <= MAX_HANDLES,
            "`poll` was given {} pollables, more than {MAX_HANDLES}",
            pollables.len()
        );
        Host::poll(self.0, pollables).await
    }
}

impl HostPollable for Polls<'_> {
    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        HostPollable::ready(self.0, pollable).await
    }

    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        HostPollable::block(self.0, pollable).await
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        HostPollable::drop(self.0, pollable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a list that named one pollable a million times occupied the host for a while,
    /// without a check of the clock.
    #[tokio::test]
    async fn so_many_are_waited_for_as_an_instance_can_hold() {
        struct Ready;

        #[wasmtime_wasi::async_trait]
        impl wasmtime_wasi::p2::Pollable for Ready {
            async fn ready(&mut self) {}
        }

        let mut table = ResourceTable::new();
        let ready = table.push(Ready).expect("there is room");
        let pollable = wasmtime_wasi::p2::subscribe(&mut table, ready).expect("there is room");
        let some = |count| {
            let named = |_| Resource::new_borrow(pollable.rep());
            (0..count).map(named).collect::<Vec<_>>()
        };
        let polled = Host::poll(&mut Polls(&mut table), some(MAX_HANDLES)).await;
        assert_eq!(polled.expect("they are ready").len(), MAX_HANDLES);
        let refused = Host::poll(&mut Polls(&mut table), some(MAX_HANDLES + 1)).await;
        let told = refused.expect_err("they are too many").to_string();
        assert!(told.contains("more than 1024"), "{told}");
    }
}
