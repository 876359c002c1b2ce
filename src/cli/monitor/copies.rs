//! `--copies URL`: the newest copy is fetched where there is no state yet, and the job's checkpoints are copied there.

use super::options::Options;
use crate::cli::error::CliError;
use millstream::engine::JobOptions;
use millstream::io::{self, IoChoice};
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::remote::{RemoteCopies, RemoteError};
use millstream::slot::Doorbell;
use std::path::Path;
use std::sync::Arc;

/// Buffers for a superblock file.
const MEMORY_BYTES: usize = 16 << 20;

/// Fetches what has to be fetched, and has the job followed.
pub fn prepare(options: &Options, job: &mut JobOptions) -> Result<(), CliError> {
    let Some(address) = &options.copies else { return Ok(()) };
    let copies = RemoteCopies::to(address).map_err(CliError::failed)?;
    if options.from_savepoint.is_none() && is_fresh(&options.state) {
        match fetch(&copies, &options.state) {
            Ok(()) | Err(RemoteError::NoCheckpoint { .. }) => {}
            Err(error) => return Err(CliError::failed(error)),
        }
    }
    if let Some(checkpoints) = &mut job.checkpoints {
        checkpoints.follower = Some(Arc::new(copies));
    }
    Ok(())
}

fn fetch(copies: &RemoteCopies, dir: &Path) -> Result<(), RemoteError> {
    let client = |reason: String| RemoteError::Client { reason };
    let doorbell = Arc::new(Doorbell::new().map_err(|error| client(error.to_string()))?);
    let mut io = io::open(IoChoice::Blocking, doorbell).map_err(|error| client(error.to_string()))?;
    let arena = Arena::new(MemoryBudget::new(MEMORY_BYTES), ArenaOptions::default());
    copies.download(&mut *io, &arena, None, dir).map(drop)
}

/// Whether a job has never written here.
fn is_fresh(dir: &Path) -> bool {
    dir.read_dir().map_or(true, |mut entries| entries.next().is_none())
}
