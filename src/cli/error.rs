//! Why a command did not do what was asked: one sentence each, and the exit code that goes with it.

use std::process::ExitCode;

/// The end of a command that is not plain success.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Help or the version was asked for: no failure.
    #[error("{0}")]
    Shown(String),
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// There is nothing to work on under the path that was given.
    #[error("{0}")]
    Unopened(String),
    /// The command failed; what it looked at is damaged or different.
    #[error("{0}")]
    Failed(String),
    /// Everything was done, but some records could not be read.
    #[error("{0}")]
    PutAside(String),
}

impl CliError {
    /// A failure in the words of the part that failed, made one line.
    pub fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(one_line(&error.to_string()))
    }

    /// A path that leads to nothing usable, made one line.
    pub fn unopened(error: impl std::fmt::Display) -> Self {
        Self::Unopened(one_line(&error.to_string()))
    }

    /// The process's answer to whoever started it.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Shown(_) => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) | Self::Unopened(_) => 2,
            Self::PutAside(_) => 3,
        })
    }
}

fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ")
}
