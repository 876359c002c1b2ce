//! The `millstream` program: a live monitor of this machine, the same job over metric files, and a look at checkpoints.
//!
//! Here: the way in. Not here: the command line (`cli`), the engine (the library of the same name).

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
