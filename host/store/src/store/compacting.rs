//! A compaction of the data file: when its steps begin, and what they may not meet.

use std::io;
use std::path::Path;
use std::sync::Arc;

use redb::StorageError;

use super::checkpoints::WAIT;
use super::{Opened, Store};
use crate::checkpoint::{Compact, Finish, Replaced};
use crate::compaction::{CompactError, Compacting, Compaction, Notes, Progress, Stopped, Switched};
use crate::disk::sync_directory;
use crate::failure::CommitFailure;
use crate::held::space_taken;

/// How often what was changed meanwhile is copied again before the second file takes its place, if
/// it is much: then checkpoints wait for it.
const MOST_COPIED_AGAIN: u32 = 3;

/// How far a compaction is.
#[derive(Debug, Default)]
pub(super) enum Stand {
    #[default]
    None,
    /// It begins once no checkpoint is under way.
    Wanted,
    Copying(Arc<Notes>),
    /// Everything was copied. It goes on once no checkpoint is under way.
    Copied(Box<Compaction>),
    /// The second file is put in the place of the first. No checkpoint may begin.
    Finishing,
}

/// A file or a thread cannot be had.
fn failed(error: io::Error) -> CompactError {
    CompactError::Failed(Arc::new(StorageError::Io(error)))
}

impl Store {
    /// Begins to copy the data file to a smaller one, in the background. If that is under way,
    /// it goes on.
    ///
    /// # Errors
    /// If it cannot begin; nothing is changed.
    pub fn compact(&mut self) -> Result<(), CompactError> {
        match &self.compaction {
            Stand::None => {}
            Stand::Copying(notes) if notes.stopped().is_some() => {
                return Err(CompactError::Stopping);
            }
            _ => return Ok(()),
        }
        if self.damage.first().is_some() || !self.stuck.is_empty() {
            return Err(CompactError::Damaged);
        }
        if self.opened.is_none() {
            return Err(self.why_closed().into());
        }
        (self.compaction, self.copied_again) = (Stand::Wanted, 0);
        let (before, needed) = (space_taken(self.held.file()), self.needed());
        self.compacting.begin(before, needed);
        tracing::info!(bytes = before, "the data file is being compacted");
        self.tend();
        match self.compacting.progress() {
            Some(Progress {
                ended: Some(Err(error)),
                ..
            }) => Err(error),
            _ => Ok(()),
        }
    }

    /// Ends a compaction that is under way. The data file is as it was.
    pub fn stop_compacting(&mut self) {
        if !self.is_finishing() {
            self.end_compaction(Stopped::Operator);
        }
    }

    /// The last compaction.
    pub fn compacting(&self) -> &Compacting {
        &self.compacting
    }

    /// The space that the entries need.
    fn needed(&self) -> u64 {
        self.snapshot().map_or(0, |snapshot| snapshot.space())
    }

    /// Where checkpoints note what they change.
    pub(super) fn notes(&self) -> Option<Arc<Notes>> {
        match &self.compaction {
            Stand::Copying(notes) => Some(Arc::clone(notes)),
            Stand::Copied(compaction) => Some(Arc::clone(compaction.notes())),
            _ => None,
        }
    }

    /// Goes on with a compaction. A checkpoint that is under way would not be noticed at its
    /// beginning, and not be copied at its end.
    pub(super) fn tend_compaction(&mut self) {
        if self.is_writing() {
            return;
        }
        match std::mem::take(&mut self.compaction) {
            Stand::Wanted => {
                let Some(opened) = &self.opened else {
                    self.compaction = Stand::Wanted;
                    return;
                };
                let made = Compaction::new(
                    &opened.database,
                    &self.damage,
                    &self.path,
                    &self.options,
                    self.needed(),
                    &self.compacting,
                );
                match made {
                    Ok(compaction) => self.copy(Box::new(compaction)),
                    Err(error) => self.compacted(Err(error)),
                }
            }
            // Nothing is put in the place of a file that is not there.
            Stand::Copied(compaction) if self.held.look().is_err() => {
                self.compaction = Stand::Copied(compaction);
            }
            // What was changed since takes longer than checkpoints should wait.
            Stand::Copied(compaction)
                if self.copied_again < MOST_COPIED_AGAIN && !compaction.notes().are_few() =>
            {
                self.copied_again += 1;
                self.copy(compaction);
            }
            Stand::Copied(compaction) => {
                let expected = compaction.file().map(|file| self.held.expect(file));
                if let Some(Err(error)) = expected {
                    return self.compacted(Err(failed(error)));
                }
                self.background.finish(Finish {
                    compaction,
                    opening: self.openings + 1,
                    first: self.held.identity(),
                });
                self.compaction = Stand::Finishing;
            }
            other => self.compaction = other,
        }
    }

    fn copy(&mut self, compaction: Box<Compaction>) {
        let notes = Arc::clone(compaction.notes());
        match self.background.compact(Compact::Copy(compaction)) {
            Ok(()) => self.compaction = Stand::Copying(notes),
            Err(error) => self.compacted(Err(failed(error))),
        }
    }

    /// Takes up that everything was copied.
    pub(super) fn copied(&mut self, copied: Result<Box<Compaction>, CompactError>) {
        match copied {
            // It may have been stopped after its last step.
            Ok(compaction) => match compaction.notes().stopped() {
                None => self.compaction = Stand::Copied(compaction),
                Some(why) => {
                    self.background.discard(compaction);
                    self.compacted(Err(CompactError::Stopped(why)));
                }
            },
            Err(error) => self.not_compacted(error),
        }
    }

    /// Notes why there is no smaller file. If it is that the file cannot be read, it is opened
    /// again, since redb then answers nothing more.
    fn not_compacted(&mut self, error: CompactError) {
        let is_closed = error.is_of_the_data_file();
        self.compacted(Err(error));
        if is_closed {
            self.recover(self.openings);
        }
    }

    /// Takes up that the second file is in the place of the first.
    pub(super) fn switched(&mut self, switched: Result<Switched, CompactError>) {
        let switched = match switched {
            Ok(switched) => switched,
            Err(error) => return self.not_compacted(error),
        };
        let Switched {
            database,
            shut,
            stored,
            file,
            is_synced,
        } = switched;
        let taken = space_taken(&file);
        self.held.succeed(file);
        self.is_unsynced |= !is_synced;
        self.openings += 1;
        let opened = Opened::new(database, stored, shut, &self.damage);
        if let Some(Opened { database, shut, .. }) = self.opened.replace(opened) {
            self.background.close(Replaced { database, shut });
        }
        self.publish();
        self.compacted(Ok(taken));
    }

    /// Notes how a compaction ended.
    fn compacted(&mut self, result: Result<u64, CompactError>) {
        self.compaction = Stand::None;
        self.held.expect_none();
        self.options.metrics.compacted(result.is_ok());
        match &result {
            Ok(bytes) => tracing::info!(bytes, "the data file was compacted"),
            Err(error) => {
                let error = ostrakon_base::causes::with_causes(error);
                tracing::warn!(%error, "the data file was not compacted: it is as it was");
            }
        }
        self.compacting.end(result);
    }

    /// Ends a compaction because of this, or waits for its end if it is about to be.
    pub(super) fn end_compaction(&mut self, why: Stopped) {
        match std::mem::take(&mut self.compaction) {
            Stand::None => {}
            Stand::Wanted => self.compacted(Err(CompactError::Stopped(why))),
            Stand::Copied(compaction) => {
                compaction.notes().stop(why);
                self.background.discard(compaction);
                self.compacted(Err(CompactError::Stopped(why)));
            }
            Stand::Copying(notes) => {
                notes.stop(why);
                self.compaction = Stand::Copying(notes);
            }
            Stand::Finishing => {
                self.compaction = Stand::Finishing;
                while matches!(self.compaction, Stand::Finishing) {
                    if let Some(done) = self.background.wait(WAIT) {
                        self.take(done);
                    }
                }
            }
        }
    }

    /// Whether the second data file is being put in the place of the first.
    pub(super) fn is_finishing(&self) -> bool {
        matches!(self.compaction, Stand::Finishing)
    }

    /// Sees that the data file's name is on the disk: before it is, no segment of the journal may
    /// be used again.
    pub(super) fn sync_name(&mut self) -> Result<(), CommitFailure> {
        if self.is_unsynced {
            let directory = self.path.parent().unwrap_or_else(|| Path::new("."));
            sync_directory(directory).map_err(StorageError::Io)?;
            self.is_unsynced = false;
        }
        Ok(())
    }
}
