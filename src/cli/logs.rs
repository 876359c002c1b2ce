//! The program's log: to stderr, warnings and errors unless `--log` or RUST_LOG says otherwise.

use super::error::CliError;
use tracing_subscriber::EnvFilter;

const DEFAULT: &str = "warn";

/// Starts logging; `asked` goes before RUST_LOG.
pub fn start(asked: Option<&str>) -> Result<(), CliError> {
    let from_environment = std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let (directives, origin) = match (asked, &from_environment) {
        (Some(asked), _) => (asked, "--log"),
        (None, Some(directives)) => (directives.as_str(), "RUST_LOG"),
        (None, None) => (DEFAULT, "--log"),
    };
    let filter = EnvFilter::try_new(directives).map_err(|error| {
        let sentence = format!(
            "{origin} is '{directives}', which is no log level ({error}): use error, warn, info, debug or trace"
        );
        CliError::Usage(sentence)
    })?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}
