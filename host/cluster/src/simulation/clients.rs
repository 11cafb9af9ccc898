//! The clients of a world: each does one operation after another.

use std::sync::Arc;

use ostrakon_contract::contract::Target;

use super::super::Cluster;
use super::clock;
use super::ground::MAX_SHARDS;
use super::history::{Ask, KEYS, LASTING, Told};
use super::witness::{note, saw};
use super::world::{SETTLING, World};

pub(super) const CLIENTS: usize = 6;

#[derive(Default)]
pub(super) struct Client {
    /// The number of the operation under way, and the shard that it was sent to.
    pub(super) waits: Option<(usize, u32)>,
    pub(super) rests_until: u64,
}

impl World<'_> {
    /// Lets the clients that were answered go on.
    pub(super) fn hear(&mut self) {
        let operations = self.history.operations();
        for client in &mut self.clients {
            let Some((number, at)) = client.waits else {
                continue;
            };
            let Some((time, told)) = &operations[number].returned else {
                continue;
            };
            let ask = operations[number].ask;
            note(
                *time,
                "client",
                format_args!("{number} at {at}: {ask:?} -> {told:?}"),
            );
            match told {
                Told::Refused(_) => saw("a request was refused"),
                Told::Unknown => saw("an outcome was unknown"),
                _ => {}
            }
            client.waits = None;
        }
    }

    /// Lets the clients that have rested send their next requests.
    pub(super) fn attend(&mut self, may_ask: bool) {
        for at in 0..self.clients.len() {
            let client = &self.clients[at];
            if !may_ask || client.waits.is_some() || client.rests_until > self.now {
                continue;
            }
            let rest = 5 + self.random.below(90);
            let shard = self.random.below(u64::from(MAX_SHARDS)) as u32;
            let key = self.random.below(KEYS as u64) as usize;
            let ask = match self.random.below(20) {
                0..=8 => {
                    self.values += 1;
                    Ask::Put(key, self.values)
                }
                9..=15 => Ask::Get(key),
                16..=17 => Ask::Delete(LASTING + key % (KEYS - LASTING)),
                _ => Ask::List,
            };
            self.clients[at].rests_until = self.now + rest;
            self.clients[at].waits = self.ask(shard, ask).map(|number| (number, shard));
        }
    }

    /// Sends a request to a shard, if it serves, and returns the operation's number.
    pub(super) fn ask(&self, shard: u32, ask: Ask) -> Option<usize> {
        let host = &self.hosts[shard as usize];
        let process = host.process.as_ref().filter(|_| !host.is_stopping)?;
        let service = process.service()?;
        let number = self.history.call(ask, self.now);
        note(
            self.now,
            "client",
            format_args!("{number} at {shard}: {ask:?}"),
        );
        let (history, life, writer) = (
            self.history.clone(),
            process.life.clone(),
            process.writer.clone(),
        );
        let cluster = process.cluster();
        process.spawn(async move {
            let release = || cluster.as_ref().and_then(Cluster::serves_by);
            let before = release();
            let answer = service.answer(Arc::new(ask.request())).await;
            if !life.deed() {
                return;
            }
            let mut told = ask.told(&answer);
            if let (Some(release), Some(key), Some(generation), Some(route)) =
                (before, ask.key(), answer.generation, &answer.route)
                && before == cluster.as_ref().and_then(Cluster::serves_by)
                && answer.shard == shard
                && matches!(route.target, Target::Partition(_))
            {
                let trial = release.trial.filter(|trial| trial.has(key.as_bytes()));
                let allowed = trial.map_or(release.live, |trial| trial.candidate);
                if trial.is_some() {
                    saw("a generation that is tried answered");
                }
                if generation != allowed.number {
                    told = Told::Wrong(format!("by generation {generation}: {release:?}"));
                }
            }
            if answer.shard != shard {
                saw("a request was forwarded");
            }
            let view = writer.views().get();
            let plan = view
                .as_ref()
                .and_then(|view| view.membership.as_ref()?.shard.plan());
            if matches!(told, Told::Keys(_)) && plan.is_some_and(|plan| !plan.is_stable()) {
                saw("a listing was answered in a change");
            }
            history.tell(number, clock::now(), told);
        });
        Some(number)
    }

    pub(super) fn clients_are_idle(&self) -> bool {
        self.clients.iter().all(|client| client.waits.is_none())
    }

    /// Reads every key once more and lists all keys, when the world is at rest.
    pub(super) fn read_all(&mut self) -> Result<(), String> {
        let asks = (0..KEYS).map(Ask::Get).chain([Ask::List]);
        let numbers: Vec<_> = asks
            .map(|ask| {
                let shard = self.random.below(u64::from(MAX_SHARDS)) as u32;
                self.ask(shard, ask)
                    .ok_or_else(|| format!("shard {shard} does not serve"))
            })
            .collect::<Result<_, _>>()?;
        let limit = self.now + SETTLING;
        while self.now < limit {
            self.turn()?;
            let operations = self.history.operations();
            if numbers
                .iter()
                .all(|number| operations[*number].returned.is_some())
            {
                break;
            }
        }
        let operations = self.history.operations();
        for number in numbers {
            let operation = &operations[number];
            match &operation.returned {
                Some((_, Told::Value(_) | Told::Keys(_))) => {}
                told => return Err(format!("at rest, {:?} was told {told:?}", operation.ask)),
            }
        }
        Ok(())
    }
}
