//! Ctrl-C and SIGTERM: the first asks the job to stop with a final checkpoint, the second ends the process at once.

use super::error::CliError;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// As a shell reports a process that SIGINT ended. The state directory then holds the last complete checkpoint, as after any crash.
const EXIT_CODE: i32 = 130;

/// Whether somebody wants the program to end.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on.
    pub fn listen() -> Result<Self, CliError> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the second signal finds what the first one set.
            flag::register_conditional_shutdown(signal, EXIT_CODE, asked.clone()).map_err(CliError::failed)?;
            flag::register(signal, asked.clone()).map_err(CliError::failed)?;
        }
        Ok(Self(asked))
    }

    /// Whether a signal came.
    pub fn was_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
