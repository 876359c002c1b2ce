//! One figure of one bench as a line of JSON.

use crate::Machine;
use serde::{Deserialize, Serialize};

/// One measured value, what it is held against and how it did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FigureLine {
    /// The bench.
    pub bench: String,
    /// What was run.
    pub scenario: String,
    /// What was measured.
    pub metric: String,
    /// The value.
    pub value: f64,
    /// Its unit; one that ends in "/s" is a rate, of which more is better.
    pub unit: String,
    /// What the machine can do at best, or what is asked.
    pub limit: Option<f64>,
    /// What hand-written code for the same work does.
    pub kernel: Option<f64>,
    /// The value over the limit, or over the kernel where there is no limit.
    pub ratio: Option<f64>,
    /// The wanted ratio in words: ">= 0.4x".
    pub goal: Option<String>,
    /// "within", "OVER" or nothing.
    pub verdict: String,
    /// Where and when.
    pub machine: Machine,
}

impl FigureLine {
    /// The wanted ratio as a number.
    pub fn goal_ratio(&self) -> Option<f64> {
        self.goal.as_deref()?.split_whitespace().last()?.trim_end_matches('x').parse().ok()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.verdict == "OVER"
    }
}

/// Three significant digits.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e5 => format!("{value:.3e}"),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_in_words_is_read_back_as_a_number() {
        let mut line = line();
        assert_eq!(line.goal_ratio(), Some(0.4));
        line.goal = None;
        assert_eq!(line.goal_ratio(), None);
    }

    pub(crate) fn line() -> FigureLine {
        FigureLine {
            bench: "keyed_update".to_owned(),
            scenario: "1000 keys & more".to_owned(),
            metric: "rate".to_owned(),
            value: 45.0,
            unit: "M/s".to_owned(),
            limit: Some(100.0),
            kernel: None,
            ratio: Some(0.45),
            goal: Some(">= 0.4x".to_owned()),
            verdict: "within".to_owned(),
            machine: Machine::default(),
        }
    }
}
