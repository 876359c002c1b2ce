//! Writes to stdout, also when nobody reads it any more: `millstream ... | head -1` must not panic, and the job must go on.

use std::io::{IsTerminal, Write};

/// One line of text.
pub fn say(line: impl std::fmt::Display) {
    write(format_args!("{line}\n"));
}

/// Text without an end of line, shown at once.
pub fn write(text: impl std::fmt::Display) {
    let mut stdout = std::io::stdout().lock();
    // A closed pipe is the reader's choice; the job's output is in its files.
    let _ = write!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Whether somebody looks at it.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
