//! Decides about card payments: HTTP in front, a Millstream job behind, in one process.
//!
//! ```text
//! POST /payments {"id":1,"card":7,"cents":1250,"at_ms":1700000000000}   -> {"decision":"approve",...}
//! GET  /cards/7                                                         -> what is known of the card
//! ```
//! An answer is given once what it says is durable: after `kill -9` every answered payment is in the state, once. A client that got no
//! answer sends the payment again with the same id: the card's state knows its latest ids and gives the same answer again.

mod features;

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use features::{Card, Decision, Payment};
use millstream::call::{CallError, CallHandle, Durability, Effect};
use millstream::engine::{CheckpointOptions, Engine, JobOptions};
use millstream::stream::Job;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// All payments of so long share one commit.
const COMMIT_EVERY: Duration = Duration::from_millis(10);
/// A client that waits longer has gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the job is asked.
enum Question {
    Decide(Payment),
    Look { card: u64 },
}

/// What it answers.
#[derive(Serialize)]
struct Answer {
    decision: Option<Decision>,
    #[serde(flatten)]
    card: features::Summary,
}

#[derive(Serialize)]
struct Refusal {
    error: String,
    /// Whether the payment may have been counted: send it again with the same id.
    may_have_taken_effect: bool,
}

type Calls = Arc<CallHandle<Question, Answer>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (listen, state) = arguments()?;
    let engine = Engine::builder().slots(1).memory(256 << 20).start()?;
    let job = Job::new("payment-risk");
    let calls = job.calls("questions", Question::card).answer_from_value("cards", answer);
    let checkpoints = Some(CheckpointOptions::every(state, COMMIT_EVERY));
    engine.submit(job, JobOptions { checkpoints, ..JobOptions::default() })?;
    let service =
        Router::new().route("/payments", post(pay)).route("/cards/{card}", get(look)).with_state(Calls::new(calls));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen).await?;
        println!("listening on {}", listener.local_addr()?);
        axum::serve(listener, service).await
    })?;
    Ok(())
}

impl Question {
    fn card(&self) -> u64 {
        match self {
            Self::Decide(payment) => payment.card,
            Self::Look { card } => *card,
        }
    }
}

/// Runs on the slot, over the card's own state.
fn answer(card: &mut Card, question: &Question) -> Answer {
    let decision = match question {
        Question::Decide(payment) => Some(card.decide(payment)),
        Question::Look { .. } => None,
    };
    Answer { decision, card: card.summary() }
}

async fn pay(
    State(calls): State<Calls>,
    Json(payment): Json<Payment>,
) -> Result<Json<Answer>, (StatusCode, Json<Refusal>)> {
    ask(&calls, Question::Decide(payment), Durability::Committed).await
}

async fn look(State(calls): State<Calls>, Path(card): Path<u64>) -> Result<Json<Answer>, (StatusCode, Json<Refusal>)> {
    ask(&calls, Question::Look { card }, Durability::None).await
}

async fn ask(
    calls: &Calls,
    question: Question,
    durability: Durability,
) -> Result<Json<Answer>, (StatusCode, Json<Refusal>)> {
    // A call that is dropped here is given up: it may have taken effect.
    let answer = tokio::time::timeout(PATIENCE, calls.call_async(question, durability)).await;
    let answer = answer.unwrap_or(Err(CallError::TimedOut { waited: PATIENCE, effect: Effect::Possible }));
    answer.map(Json).map_err(|error| {
        let may_have_taken_effect = error.effect() == Effect::Possible;
        (StatusCode::SERVICE_UNAVAILABLE, Json(Refusal { error: error.to_string(), may_have_taken_effect }))
    })
}

/// `--listen ADDRESS --state DIRECTORY`
fn arguments() -> Result<(String, String), String> {
    let (mut listen, mut state) = (None, None);
    let mut arguments = std::env::args().skip(1);
    while let (Some(flag), value) = (arguments.next(), arguments.next()) {
        match flag.as_str() {
            "--listen" => listen = value,
            "--state" => state = value,
            other => return Err(format!("{other} is unknown: payment-risk [--listen ADDRESS] --state DIRECTORY")),
        }
    }
    let state = state.ok_or("say where the state is kept: --state DIRECTORY")?;
    Ok((listen.unwrap_or_else(|| "127.0.0.1:8080".to_owned()), state))
}
