//! Who runs what was decided? Registration with the JobManager, the table of tasks, memory per job, and slots that stand still.
//!
//! `TaskManager` is a step machine: what it wants done is among its actions; the slots themselves are `slot`'s.

mod budgets;
mod manager;
mod registration;
mod watchdog;

pub use budgets::{BudgetError, Budgets};
pub use manager::{TaskManager, TaskManagerAction};
pub use registration::{Registration, RegistrationStep};
pub use watchdog::{SlotReport, SlotSample, SlotWork, Watchdog};
