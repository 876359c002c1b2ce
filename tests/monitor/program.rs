//! Runs the `millstream` program and bounds how long it may take.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// No run of a test takes longer; one that does hangs.
const RUN_MAX: Duration = Duration::from_secs(60);

/// A directory of one test, removed when the test is over.
pub struct Scratch {
    path: PathBuf,
}

/// What a run of the program left behind.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A monitor job that can be run again and again over the same files, output and state.
#[derive(Clone)]
pub struct Monitor {
    pub out: PathBuf,
    pub state: PathBuf,
    args: Vec<String>,
}

impl Scratch {
    /// An empty directory for the test of this name.
    pub fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file in it.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What a failed test leaves is there to be looked at.
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl Monitor {
    /// Over these files, with output and state under `scratch` by `name`.
    pub fn over(files: &[PathBuf], scratch: &Scratch, name: &str) -> Self {
        let (out, state) = (scratch.join(&format!("{name}-out")), scratch.join(&format!("{name}-state")));
        let mut args: Vec<String> = ["run", "monitor", "--out"].map(str::to_owned).to_vec();
        args.extend([path_text(&out), "--state".to_owned(), path_text(&state)]);
        if !files.is_empty() {
            args.push("--input".to_owned());
            args.extend(files.iter().map(|file| path_text(file)));
        }
        Self { out, state, args }
    }

    /// With further arguments.
    pub fn with(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| arg.to_string()));
        self
    }

    /// Starts it; its output is thrown away.
    pub fn start(&self) -> Child {
        let mut command = program(&self.args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("the program was built for this test")
    }

    /// Runs it to its end.
    pub fn run(&self) -> Ended {
        run(&self.args)
    }

    /// Runs it to its end, which must be a good one.
    pub fn finish(&self) -> Ended {
        let ended = self.run();
        assert!(ended.status.success(), "{:?}: {}", self.args, ended.stderr);
        ended
    }
}

/// Runs the program with these arguments to its end.
pub fn run(args: &[impl AsRef<std::ffi::OsStr>]) -> Ended {
    let mut child = program(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = reader_of(child.stdout.take().unwrap());
    let stderr = reader_of(child.stderr.take().unwrap());
    let status = wait(&mut child, RUN_MAX).unwrap_or_else(|| {
        let _ = child.kill();
        panic!("millstream did not end within {} s", RUN_MAX.as_secs())
    });
    Ended { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Waits for the end of a process, at most this long.
pub fn wait(child: &mut Child, at_most: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + at_most;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Looks until something is so, at most as long as a run may take.
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + RUN_MAX;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {} s in vain until {what}", RUN_MAX.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn program(args: &[impl AsRef<std::ffi::OsStr>]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(args).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

fn reader_of(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        text
    })
}

fn path_text(path: &Path) -> String {
    path.to_str().expect("test paths are UTF-8").to_owned()
}
