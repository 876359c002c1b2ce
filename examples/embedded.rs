//! Millstream inside another program: the host's threads push temperatures in, alarms come back to a channel.
//!
//! `cargo run --example embedded --no-default-features`

use millstream::engine::{Engine, JobOptions};
use millstream::sink::Callback;
use millstream::source::PushSource;
use millstream::stream::Job;
use std::sync::mpsc::channel;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder().slots(2).memory(64 << 20).start()?;
    let (source, temperatures) = PushSource::new(1024);
    let (alarms, received) = channel();
    let job = Job::new("alarms");
    job.source("temperatures", source)
        .ingestion_time()
        .filter(|celsius: &f64| *celsius > 90.0)
        .sink("host", Callback::new(move |_, celsius: &f64| alarms.send(*celsius).unwrap_or_default()));
    let job = engine.submit(job, JobOptions::default())?;

    // Any thread of the host may push; a full queue holds it back.
    let sensors = [20.0, 70.0].map(|base| {
        let temperatures = temperatures.clone();
        std::thread::Builder::new().spawn(move || (0..25).try_for_each(|n| temperatures.push(base + f64::from(n))))
    });
    for sensor in sensors {
        sensor?.join().map_err(|_| "a sensor panicked")??;
    }
    temperatures.close();
    job.wait()?;
    engine.stop();
    let alarms: Vec<f64> = received.try_iter().collect();
    println!("alarms: {alarms:?}");
    assert_eq!(alarms, [91.0, 92.0, 93.0, 94.0]);
    Ok(())
}
