//! What can be asked of a running controller.

use rustix::process::Signal;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::addresses::MAX_SHARDS;
use super::news::{News, Standing};
use super::projection::Files;
use super::work::Event;

/// A running controller. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Handle(pub(super) UnboundedSender<Event>);

/// What a controller is told. Those with a sender are answered on it.
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

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has ended.
    #[error("the controller has ended: start `ostrakon dev` again")]
    Ended,
    /// No shard has this ordinal.
    #[error("there is no shard {0}: see `status`")]
    NoShard(u32),
    /// The shard has no process now.
    #[error("shard {0} has no process now: it is started again in a moment, see `status`")]
    NoProcess(u32),
    /// So many shards cannot be.
    #[error("{0} shards cannot be: give 1 to {MAX_SHARDS}")]
    Shards(u32),
}

impl Handle {
    /// Puts a ConfigMap's content into each shard's volume, after its delay. `cluster.shards` in it
    /// is the controller's to set. The first one starts the shards.
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

    /// Wants another number of shards; [`Handle::settled`] is when they are there.
    ///
    /// # Errors
    /// When there cannot be so many, or the controller has ended.
    pub fn scale(&self, shards: u32) -> Result<(), Refusal> {
        if !(1..=MAX_SHARDS).contains(&shards) {
            return Err(Refusal::Shards(shards));
        }
        self.tell(Command::Scale(shards))
    }

    /// Restarts all shards, one after another in reverse order; [`Handle::settled`] is when all
    /// were.
    ///
    /// # Errors
    /// When the controller has ended.
    pub fn restart(&self) -> Result<(), Refusal> {
        self.tell(Command::Restart)
    }

    /// Kills a shard's process with SIGKILL and does not wait for its end; it is started again.
    /// Gives the process's id.
    ///
    /// # Errors
    /// When there is no such process, or the controller has ended.
    pub async fn kill(&self, ordinal: u32) -> Result<u32, Refusal> {
        self.signal(ordinal, Signal::KILL).await
    }

    /// Halts a shard's process with SIGSTOP, until it is resumed or killed.
    ///
    /// # Errors
    /// When there is no such process, or the controller has ended.
    pub async fn pause(&self, ordinal: u32) -> Result<u32, Refusal> {
        self.signal(ordinal, Signal::STOP).await
    }

    /// Lets a halted process go on.
    ///
    /// # Errors
    /// When there is no such process, or the controller has ended.
    pub async fn resume(&self, ordinal: u32) -> Result<u32, Refusal> {
        self.signal(ordinal, Signal::CONT).await
    }

    async fn signal(&self, ordinal: u32, signal: Signal) -> Result<u32, Refusal> {
        self.ask(|reply| Command::Signal(ordinal, signal, reply))
            .await?
    }

    /// How the set stands.
    ///
    /// # Errors
    /// When the controller has ended.
    pub async fn standing(&self) -> Result<Standing, Refusal> {
        self.ask(Command::Standing).await
    }

    /// Waits until everything is as wanted: all shards ready, on the newest content, and all data
    /// where it belongs. Gives how the set stands then; what was wanted may have changed meanwhile.
    ///
    /// # Errors
    /// When the controller ends first.
    pub async fn settled(&self) -> Result<Standing, Refusal> {
        self.ask(Command::Settled).await
    }

    /// What happens from now on.
    ///
    /// # Errors
    /// When the controller has ended.
    pub fn news(&self) -> Result<UnboundedReceiver<News>, Refusal> {
        let (tell, news) = unbounded_channel();
        self.tell(Command::Subscribe(tell))?;
        Ok(news)
    }

    /// Ends all shards in reverse order, and then the controller; [`Handle::ended`] is when.
    pub fn stop(&self) {
        // It has ended: just that is asked for.
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
