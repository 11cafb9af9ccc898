//! The controller's reactions to commands.

use rustix::process::Signal;

use super::super::handle::{Command, Refusal};
use super::super::news::{Standing, What};
use super::super::set::Phase;
use super::Work;

impl Work {
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Config(config) => {
                self.config = Some(config);
                self.propagate();
            }
            Command::Secrets(secrets) => {
                self.secrets = secrets;
                self.propagate();
            }
            Command::Scale(shards) => {
                let from = self.set.wanted();
                self.set.scale(shards);
                if from != shards {
                    self.tell(None, What::Scaling { from, to: shards });
                }
            }
            Command::Restart => self.set.restart(),
            Command::Signal(ordinal, signal, reply) => {
                // The caller may have gone.
                let _ = reply.send(self.signal(ordinal, signal));
            }
            Command::Standing(reply) => {
                let _ = reply.send(self.standing());
            }
            Command::Settled(reply) => self.waiters.push(reply),
            Command::Subscribe(news) => self.subscribers.push(news),
            Command::Stop => self.set.end(),
            Command::Abort => {
                self.set.end();
                for process in self
                    .shards
                    .values()
                    .filter_map(|shard| shard.process.as_ref())
                {
                    process.signal(Signal::KILL);
                }
            }
        }
    }

    fn signal(&mut self, ordinal: u32, signal: Signal) -> Result<u32, Refusal> {
        let shard = self
            .shards
            .get_mut(&ordinal)
            .ok_or(Refusal::NoShard(ordinal))?;
        let process = shard.process.as_ref().ok_or(Refusal::NoProcess(ordinal))?;
        process.signal(signal);
        shard.paused = match signal {
            Signal::STOP => true,
            Signal::CONT => false,
            _ => shard.paused,
        };
        Ok(process.id)
    }

    pub(super) fn standing(&self) -> Standing {
        let shards = self.shards.values().map(|shard| {
            let pod = self.set.pod(shard.ordinal);
            let ending = pod.is_some_and(|pod| pod.phase == Phase::Ending);
            shard.standing(&self.options.addresses, ending)
        });
        Standing {
            wanted: self.set.wanted(),
            spread: self.set.spread(),
            settled: self.is_settled(),
            shards: shards.collect(),
        }
    }
}
