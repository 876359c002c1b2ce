//! `kill -9` at random instants while clients pay: every payment counts once, whether its answer arrived or was asked for again.
#![allow(clippy::disallowed_methods, reason = "the test plays the clients, which have threads and a clock")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const KILLS: u64 = 12;
const CLIENTS: u64 = 4;
const CARDS: u64 = 5;

/// A running service.
struct Service {
    process: Child,
    address: String,
}

impl Service {
    fn start(state: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_payment-risk"))
            .args(["--listen", "127.0.0.1:0", "--state"])
            .arg(state)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect("the service says where it listens").to_owned();
        Self { process, address }
    }

    fn kill(self) {}
}

impl Drop for Service {
    /// Also when the test fails: nothing of it runs on.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The body of a 200 answer.
fn request(address: &str, head: &str, body: &str) -> Option<serde_json::Value> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let length = body.len();
    write!(
        stream,
        "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| serde_json::from_str(body).ok())?
}

/// One client's payments: the next id, and per card how many were answered.
#[derive(Clone, Default)]
struct Client {
    number: u64,
    next: u64,
    answered: BTreeMap<u64, u64>,
}

impl Client {
    /// Pays until told to stop or the service is gone. A payment without an answer is the next one again.
    fn pay(&mut self, address: &str, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) && self.pay_once(address) {}
    }

    fn pay_once(&mut self, address: &str) -> bool {
        let (id, card) = (self.next * CLIENTS + self.number, self.next % CARDS);
        // An hour apart each, so that none is declined for its number.
        let at_ms = self.next * 3_600_000;
        let body = format!(r#"{{"id":{id},"card":{card},"cents":1,"at_ms":{at_ms}}}"#);
        let Some(answer) = request(address, "POST /payments", &body) else { return false };
        assert_ne!(answer["decision"], "decline", "{answer}");
        *self.answered.entry(card).or_default() += 1;
        self.next += 1;
        true
    }
}

#[test]
fn every_payment_counts_once_whenever_the_service_is_killed() {
    let state = scratch();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|number| Client { number, ..Client::default() }).collect();
    for kill in 0..KILLS {
        let service = Service::start(&state);
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let (stop, address) = (stop.clone(), service.address.clone());
                std::thread::spawn(move || {
                    client.pay(&address, &stop);
                    client
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(60 + kill * 37 % 200));
        service.kill();
        stop.store(true, Ordering::Relaxed);
        clients = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    }
    let service = Service::start(&state);
    // Whatever was under way at the last kill is paid again, as any client would.
    let deadline = Instant::now() + Duration::from_secs(20);
    for client in &mut clients {
        while !client.pay_once(&service.address) {
            assert!(Instant::now() < deadline, "the service does not come back");
        }
    }
    assert!(clients.iter().map(|client| client.next).sum::<u64>() > KILLS, "payments were answered between the kills");
    for card in 0..CARDS {
        let found = request(&service.address, &format!("GET /cards/{card}"), "").unwrap();
        let paid: u64 = clients.iter().filter_map(|client| client.answered.get(&card)).sum();
        assert_eq!((found["payments"].as_u64(), found["cents"].as_u64()), (Some(paid), Some(paid)), "card {card}");
    }
    service.kill();
    let _ = std::fs::remove_dir_all(&state);
}

fn scratch() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("state-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}
