//! Why a checkpoint was not copied into an object store, or not fetched from there.

use crate::checkpoint::RestoreError;
use std::path::PathBuf;

/// What can go wrong with copies in an object store.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The address says nothing that this program can reach.
    #[error("\"{address}\" is no object store that can be reached: {reason}")]
    Address {
        /// As it was given.
        address: String,
        /// Why.
        reason: String,
    },
    /// The store refused, or was not reached.
    #[error("cannot {action} \"{object}\": {reason}")]
    Store {
        /// The verb.
        action: &'static str,
        /// The object.
        object: String,
        /// The store's words.
        reason: String,
    },
    /// Somebody else writes under the same prefix.
    #[error(
        "\"{object}\" exists already and is another copy: two jobs copy to one place, or a job began anew there; give each its own prefix"
    )]
    AnotherWriter {
        /// The index that is in the way.
        object: String,
    },
    /// A local file could not be read or written.
    #[error("cannot {action} \"{path}\": {reason}")]
    File {
        /// The verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// An object is not what was put there.
    #[error("\"{object}\" is damaged: {what}")]
    Damaged {
        /// The object.
        object: String,
        /// What is wrong.
        what: String,
    },
    /// There is nothing to fetch.
    #[error("there is no checkpoint under \"{prefix}\": check bucket and prefix")]
    NoCheckpoint {
        /// Where it was looked for.
        prefix: String,
    },
    /// A copy is only made of an empty directory.
    #[error("\"{dir}\" is not empty: fetch into a new directory")]
    Occupied {
        /// The directory.
        dir: PathBuf,
    },
    /// The runtime of the client could not be started.
    #[error("the object store's client cannot be started: {reason}")]
    Client {
        /// Why.
        reason: String,
    },
    /// The directory could not be completed, or read.
    #[error(transparent)]
    Directory(#[from] RestoreError),
}
