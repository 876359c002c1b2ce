//! Makes the page of a report anew: `cargo run -p millstream-report -- [DIRECTORY]` (target/millstream-report).

use millstream_report::{ReportError, ReportFolder};

fn main() -> Result<(), ReportError> {
    let dir = std::env::args_os().nth(1).unwrap_or_else(|| "target/millstream-report".into());
    let folder = ReportFolder::new(dir);
    println!("{}", folder.write_index()?.display());
    Ok(())
}
