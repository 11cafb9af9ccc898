//! Commands to a running controller.

use rustix::process::Signal;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::addresses::MAX_SHARDS;
use super::news::{News, Standing};
use super::projection::Files;
use super::work::Event;

/// A running controller. Clones share it.
#[derive(Clone, Debug)]
pub struct Handle(pub(super) UnboundedSender<Event>);

/// A command. Those with a sender are answered through it.
#[derive(Debug)]
pub(super) enum Command {
    Config(Files),
    Secrets(Files),
    Scale(u32),
    Restart,
    Signal(u32, Signal, oneshot::Sender<Result<u32, Refusal>>),
    Standing(oneshot::Sender<Standing>),
    Settled(oneshot::Sender<Standing>),
    Subscribe(UnboundedSender<News>),
    Stop,
    Abort,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the controller has ended: start `ostrakon dev` again")]
    Ended,
    #[error("there is no shard {0}: see `status`")]
    NoShard(u32),
    #[error("shard {0} has no process now: it will be restarted in a moment, see `status`")]
    NoProcess(u32),
    /// The number of shards is out of range.
    #[error("{0} shards cannot be: give 1 to {MAX_SHARDS}")]
    Shards(u32),
}

impl Handle {
    /// Puts a ConfigMap's content into each shard's volume, after its delay. The controller sets
    /// `cluster.shards` in it. The first call starts the shards.
    ///
    /// # Errors
    /// When the controller has ended.
    pub fn publish(&self, config: Files) -> Result<(), Refusal> {
        self.tell(Command::Config(config))
    }

    /// Puts a Secret's content into each shard's volume, after its delay.
    ///
    /// # Errors
    /// When the controller has ended.
    pub fn publish_secrets(&self, secrets: Files) -> Result<(), Refusal> {
        self.tell(Command::Secrets(secrets))
    }

    /// Sets the wanted number of shards. Use [`Handle::settled`] to wait until they are there.
    ///
    /// # Errors
    /// When the number is out of range, or the controller has ended.
    pub fn scale(&self, shards: u32) -> Result<(), Refusal> {
        if !(1..=MAX_SHARDS).contains(&shards) {
            return Err(Refusal::Shards(shards));
        }
        self.tell(Command::Scale(shards))
    }

    /// Restarts all shards, one after another in reverse order. Use [`Handle::settled`] to wait
    /// for the end.
    ///
    /// # Errors
    /// When the controller has ended.
    pub fn restart(&self) -> Result<(), Refusal> {
        self.tell(Command::Restart)
    }

    /// Kills a shard's process with SIGKILL without waiting for its end; it will be restarted.
    /// Returns the process's id.
    ///
    /// # Errors
    /// When the shard has no process, or the controller has ended.
    pub async fn kill(&self, ordinal: u32) -> Result<u32, Refusal> {
        self.signal(ordinal, Signal::KILL).await
    }

    /// Halts a shard's process with SIGSTOP, until it is resumed or killed.
    ///
    /// # Errors
    /// When the shard has no process, or the controller has ended.
    pub async fn pause(&self, ordinal: u32) -> Result<u32, Refusal> {
        self.signal(ordinal, Signal::STOP).await
    }

    /// Resumes a halted process.
    ///
    /// # Errors
    /// When the shard has no process, or the controller has ended.
    pub async fn resume(&self, ordinal: u32) -> Result<u32, Refusal> {
        self.signal(ordinal, Signal::CONT).await
    }

    async fn signal(&self, ordinal: u32, signal: Signal) -> Result<u32, Refusal> {
        self.ask(|reply| Command::Signal(ordinal, signal, reply))
            .await?
    }

    /// The state of the set.
    ///
    /// # Errors
    /// When the controller has ended.
    pub async fn standing(&self) -> Result<Standing, Refusal> {
        self.ask(Command::Standing).await
    }

    /// Waits until everything is as wanted: all shards are ready and on the newest content, and
    /// all data is where it belongs. Returns the set's state at that time; the wanted number may
    /// have changed meanwhile.
    ///
    /// # Errors
    /// When the controller ends first.
    pub async fn settled(&self) -> Result<Standing, Refusal> {
        self.ask(Command::Settled).await
    }

    /// A receiver of everything that happens from now on.
    ///
    /// # Errors
    /// When the controller has ended.
    pub fn news(&self) -> Result<UnboundedReceiver<News>, Refusal> {
        let (tell, news) = unbounded_channel();
        self.tell(Command::Subscribe(tell))?;
        Ok(news)
    }

    /// Ends all shards in reverse order, and then the controller. Use [`Handle::ended`] to wait
    /// for it.
    pub fn stop(&self) {
        // If the controller has ended already, nothing is left to do.
        let _ = self.tell(Command::Stop);
    }

    /// Kills all shards at once, and ends the controller.
    pub fn abort(&self) {
        let _ = self.tell(Command::Abort);
    }

    /// Waits until the controller has ended.
    pub async fn ended(&self) {
        self.0.closed().await;
    }

    fn tell(&self, command: Command) -> Result<(), Refusal> {
        let told = self.0.send(Event::Command(command));
        told.map_err(|_| Refusal::Ended)
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply))?;
        answer.await.map_err(|_| Refusal::Ended)
    }
}
